"""Noise processes and targets agree with closed forms, with each other, and with the `diffusers` library."""

from __future__ import annotations

import diffusers
import pytest
import torch
from gaussian import PROCESSES, STD

from dreamenv.diffusion.loss import add_noise, denoising_error
from dreamenv.diffusion.preconditioning import Preconditioning, quantize_prediction
from dreamenv.diffusion.process import EDM, RectifiedFlow, VariancePreserving
from dreamenv.diffusion.target import X0, EDMPreconditioned, Epsilon, FlowVelocity, Velocity
from dreamenv.errors import ConfigError

every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


@every_process
def test_levels_go_from_noise_to_clean(process):
    for steps in (1, 2, 7, 50):
        levels = process.sampling_levels(steps)
        assert levels.shape == (steps + 1,)
        assert levels[-1] == process.clean
        assert (levels.diff() < 0).all()
    alpha, sigma = process.alpha_sigma(process.sampling_levels(50))
    assert (alpha[-1], sigma[-1]) == (1, 0)
    assert alpha[0] / sigma[0] < 0.1
    assert ((alpha / sigma).diff() > 0).all()


@every_process
def test_levels_to_train_on_lie_where_the_sampler_goes(process):
    uniform = torch.rand(4, 500, generator=torch.Generator().manual_seed(0))
    levels, ladder = process.training_levels(uniform), process.sampling_levels(50)
    assert levels.shape == uniform.shape
    assert levels.min() > process.clean
    assert levels.max() <= ladder[0]
    assert levels.std() > 0
    assert torch.isfinite(process.time(torch.cat([levels.flatten(), ladder]))).all()


def test_chains_are_those_of_their_papers():
    """alpha^2 of the linear chain after 1000 steps is about 4e-5 (Ho et al. 2020); a cosine halves at the middle."""
    linear = VariancePreserving(schedule="linear").signal
    assert float(linear[-1]) == pytest.approx(4.036e-5, rel=1e-3)
    reference = diffusers.DDPMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02).alphas_cumprod
    torch.testing.assert_close(linear[1:].float(), reference, rtol=1e-4, atol=1e-7)
    cosine = VariancePreserving(schedule="cosine").signal
    reference = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod
    torch.testing.assert_close(cosine[1:].float(), reference, rtol=1e-4, atol=1e-6)
    assert float(VariancePreserving(schedule="sigmoid").signal[501]) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("shift", [2.0, 0.5])
def test_a_shift_divides_signal_by_noise_alike_in_chains_and_flows(shift):
    for plain, shifted in (
        (VariancePreserving(), VariancePreserving(shift=shift)),
        (RectifiedFlow(), RectifiedFlow(shift=shift)),
    ):
        both = (p.alpha_sigma(p.sampling_levels(20)) for p in (plain, shifted))
        before, after = (alpha[1:-1] / sigma[1:-1] for alpha, sigma in both)
        torch.testing.assert_close(after * shift, before, rtol=1e-3, atol=1e-6)


def test_edm_levels_are_those_of_the_library():
    reference = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_schedule="karras", rho=7.0)
    reference.set_timesteps(12)
    torch.testing.assert_close(EDM().sampling_levels(12), reference.sigmas, rtol=1e-5, atol=1e-6)


def test_timesteps_are_spaced_from_the_end_or_between_both_ends():
    trailing, both_ends = (VariancePreserving(timestep_spacing=name) for name in ("trailing", "linspace"))
    assert trailing.sampling_levels(4).tolist() == [999, 749, 499, 249, -1]
    assert both_ends.sampling_levels(4).tolist() == [999, 666, 333, 0, -1]
    assert trailing.sampling_levels(1).tolist() == [999, -1]


def test_networks_are_given_times_in_the_unit_that_they_take():
    levels = torch.tensor([-1.0, 0.0, 250.0, 999.0])
    assert VariancePreserving().time(levels).tolist() == pytest.approx([0, 0, 0.25, 0.999])
    assert VariancePreserving(time_scale=1000.0).time(levels).tolist() == [0, 0, 250, 999]
    torch.testing.assert_close(EDM(sigma_min=0.1).time(torch.tensor([0.0, 2.0])), torch.tensor([0.1, 2.0]).log() / 4)
    assert RectifiedFlow(shift=3.0).time(torch.tensor([0.0, 0.25])).tolist() == [0, 0.25]


# Targets


@pytest.mark.parametrize(
    ("target", "process"),
    [
        (X0(), PROCESSES["cosine"]),
        (Epsilon(), PROCESSES["linear"]),
        (Velocity(), PROCESSES["sigmoid"]),
        (FlowVelocity(), RectifiedFlow()),
        (EDMPreconditioned(), EDM()),
        (Epsilon(), EDM()),
        (X0(), RectifiedFlow()),
    ],
    ids=lambda part: part.kind,
)
def test_the_clean_frame_and_the_noise_are_read_from_what_a_network_should_predict(target, process):
    preconditioning = Preconditioning(process, target)
    generator = torch.Generator().manual_seed(0)
    frames, noise = torch.randn(2, 3, 5, 8, 8, generator=generator), torch.randn(2, 3, 5, 8, 8, generator=generator)
    level = process.training_levels(torch.rand(2, 3, generator=generator) * 0.8 + 0.1)
    noisy = add_noise(process, frames, noise, level)
    output = preconditioning.training_target(frames, noise, level)
    found = preconditioning.read(output, noisy, level)
    torch.testing.assert_close(found.frame, frames, rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(found.noise, noise, rtol=1e-3, atol=2e-3)
    assert float(denoising_error(preconditioning, output, frames, noise, level).max()) == 0
    clean = torch.full((2, 3), process.clean)
    assert (preconditioning.read(output, frames, clean).noise == 0).all()
    assert (denoising_error(preconditioning, output + 1, frames, noise, clean) == 0).all()


@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_edm_has_networks_see_and_predict_numbers_of_unit_variance(offset):
    """Karras et al. chose the preconditioning so that input and target have variance 1 at every noise level."""
    preconditioning = Preconditioning(EDM(), EDMPreconditioned(sigma_data=STD, offset_noise=offset))
    generator = torch.Generator().manual_seed(0)
    for sigma in (0.01, 0.5, 30.0):
        level = torch.full((1, 1), sigma)
        frames, noise = (torch.randn(1, 1, 200_000, generator=generator) * scale for scale in (STD, 1.0))
        noise = noise + offset / sigma * torch.randn(noise.shape, generator=generator)
        given = preconditioning.scaled(add_noise(preconditioning.process, frames, noise, level), level)
        assert float(given.std()) == pytest.approx(1, abs=0.02)
        assert float(preconditioning.training_target(frames, noise, level).std()) == pytest.approx(1, abs=0.02)
        assert float(preconditioning.time(level)) == pytest.approx(
            float(torch.tensor(sigma).hypot(torch.tensor(offset)).log()) / 4
        )
    assert preconditioning.target.context_scale == 1 / STD


@pytest.mark.parametrize(
    ("target", "process", "would"),
    [
        (Velocity(), EDM(), "'vp'"),
        (FlowVelocity(), VariancePreserving(), "'flow'"),
        (Epsilon(), RectifiedFlow(), "'vp', 'edm'"),
        (EDMPreconditioned(), VariancePreserving(), "'edm'"),
    ],
    ids=lambda part: getattr(part, "kind", ""),
)
def test_a_target_that_does_not_go_with_the_noise_is_refused(target, process, would):
    said = f"{target.kind!r} does not go with {process.kind!r} noise, but with {would}; .*'x0' goes with all"
    with pytest.raises(ConfigError, match=said):
        Preconditioning(process, target)


def test_a_quantized_frame_takes_its_noise_along():
    process, generator = EDM(), torch.Generator().manual_seed(0)
    preconditioning, level = Preconditioning(process, EDMPreconditioned()), torch.full((2, 1), 0.8)
    noisy, output = (torch.randn(2, 1, 3, 4, 4, generator=generator) for _ in range(2))
    found = quantize_prediction(preconditioning.read(output, noisy, level), noisy, level, process)
    steps = (found.frame + 1) / 2 * 255
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
    assert float(found.frame.abs().max()) <= 1
    torch.testing.assert_close(found.frame + 0.8 * found.noise, noisy)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: VariancePreserving(schedule="square"), "linear, cosine, sigmoid, not 'square'"),
        (lambda: VariancePreserving(steps=0), "at least 1, not 0"),
        (lambda: VariancePreserving(timestep_spacing="leading"), "'trailing' or 'linspace', not 'leading'"),
        (lambda: VariancePreserving(time_scale=0.0), "time_scale must be positive, not 0.0"),
        (lambda: VariancePreserving(shift=-1.0), "shift must be positive, not -1.0"),
        (lambda: VariancePreserving().sampling_levels(0), "steps must be from 1 to 1000.*not 0"),
        (lambda: VariancePreserving(steps=10).sampling_levels(11), "not 11"),
        (lambda: EDM(sigma_min=2, sigma_max=1), "not 2 and 1"),
        (lambda: EDM(rho=0.0), "rho and p_std must be positive, not 0.0"),
        (lambda: EDM().sampling_levels(0), "at least 1, not 0"),
        (lambda: EDM(rho=5.0).sampling_levels(2), "rho has no effect on 2 steps.*leave it at 7"),
        (lambda: RectifiedFlow(shift=0.0), "positive, not 0.0"),
        (lambda: RectifiedFlow(logit_std=0.0), "logit_std must be positive or None, not 0.0"),
        (lambda: EDMPreconditioned(sigma_data=0.0), "sigma_data must be positive, not 0.0"),
        (lambda: EDMPreconditioned(offset_noise=-0.1), "offset_noise must be at least 0, not -0.1"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(make, named):
    with pytest.raises(ConfigError, match=named):
        make()
