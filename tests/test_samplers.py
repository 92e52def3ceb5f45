"""Samplers agree with closed forms, with each other, and with the `diffusers` library."""

from __future__ import annotations

import math
from itertools import pairwise

import diffusers
import numpy as np
import pytest
import torch
from gaussian import MEAN, PROCESSES, STD, advance, best, denoise_all, exact, pure_noise

from dreamenv.diffusion.preconditioning import Preconditioning
from dreamenv.diffusion.process import EDM, RectifiedFlow, VariancePreserving
from dreamenv.diffusion.sampler import DDIM, Ancestral, DPMSolver, Euler, Heun, SamplingStep
from dreamenv.diffusion.schedule import SchedulingMatrix
from dreamenv.diffusion.target import X0, EDMPreconditioned, Epsilon, FlowVelocity, Velocity
from dreamenv.errors import ConfigError

old_numpy_protocol = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def one_frame(steps: int) -> SchedulingMatrix:
    return SchedulingMatrix.from_starts(np.zeros(1, np.int64), steps)


@every_process
@pytest.mark.parametrize(
    ("sampler", "order"), [(Euler(), 1), (Heun(), 2), (DPMSolver(), 2)], ids=["euler", "heun", "dpm"]
)
def test_samplers_follow_the_flow_of_gaussian_data_with_their_order(process, sampler, order):
    """Between two levels at which nothing is extreme, halving the steps divides the error by 2 to the order."""
    ladder = process.sampling_levels(1000 if isinstance(process, VariancePreserving) else 512)
    errors = []
    for stride in (32, 16, 8):
        levels = ladder[-(321 + 320) : -320 : stride]
        x = first = torch.linspace(-2, 3, 64, dtype=torch.float64).reshape(1, 1, 64)
        previous = None
        for level, next_level in pairwise(levels):
            this = SamplingStep(process, x, level.reshape(1, 1), next_level.reshape(1, 1), previous=previous)
            x, previous = advance(sampler, best(process), this)
        errors.append(float((x - exact(process, first, levels[:1, None], levels[-1:, None])).abs().max()))
    rates = [math.log2(a / b) for a, b in pairwise(errors)]
    assert rates[-1] > order - 0.35, (errors, rates)
    assert errors[-1] < (0.03 if order == 1 else 0.003)


@every_process
@pytest.mark.parametrize(
    "sampler",
    [DDIM(eta=0.5), DDIM(eta=1.0), Ancestral(), Ancestral(variance="greatest")],
    ids=["ddim .5", "ddim 1", "least", "greatest"],
)
def test_stochastic_samplers_sample_gaussian_data(process, sampler):
    assert sampler.stochastic
    generator = torch.Generator().manual_seed(1)
    noisy = pure_noise(process, 64, 1, 256)

    def noise():
        return torch.randn(noisy.shape, generator=generator, dtype=torch.float64)

    x = denoise_all(one_frame(200), process, sampler, best(process), noisy, noise)
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(x.std()) == pytest.approx(STD, abs=0.03)
    with pytest.raises(ConfigError, match="give it as noise="):
        denoise_all(one_frame(2), process, sampler, best(process), noisy)


def rollout(scheduler, timesteps, network, x, **kwargs):
    """Run a scheduler of the library; returns every intermediate picture."""
    seen = []
    for t in timesteps:
        x = scheduler.step(network(x, t), t, x, **kwargs).prev_sample
        seen.append(x)
    return seen


def network_of(levels_of):
    """Any smooth function passes for a network; what it is given as the time differs by library."""
    return lambda x, t: torch.sin(3 * x) * 0.7 + 0.1 * torch.cos(x + levels_of(t))


def ours(process, target, sampler, levels, network, x, variance=None, noises=None):
    preconditioning, seen, previous = Preconditioning(process, target), [], None

    def denoise(noisy, level):
        output = network(preconditioning.scaled(noisy, level), level.flatten()[0])
        return preconditioning.read(output, noisy, level, None if variance is None else variance(noisy))

    for number, (level, next_level) in enumerate(pairwise(levels)):
        noise = None if noises is None else noises[number]
        this = SamplingStep(process, x, level.reshape(1, 1), next_level.reshape(1, 1), noise, previous)
        x, previous = advance(sampler, denoise, this)
        seen.append(x)
    return seen


def picture(seed=0):
    return torch.randn(1, 1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("target", "name"),
    [(Epsilon(), "epsilon"), (Velocity(), "v_prediction"), (X0(), "sample")],
    ids=lambda one: str(one),
)
@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("sampler", [DDIM(), Euler()], ids=["ddim", "euler"])
def test_ddim_agrees_with_the_library(target, name, steps, sampler):
    library = diffusers.DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, clip_sample=False, prediction_type=name, timestep_spacing="trailing"
    )
    library.set_timesteps(steps)
    process = VariancePreserving(schedule="linear")
    levels = torch.cat([library.timesteps.float(), torch.tensor([-1.0])])
    network = network_of(lambda t: float(t) / 1000)
    expected = rollout(library, library.timesteps, network, picture())
    found = ours(process, target, sampler, levels, network, picture())
    for a, b in zip(found[:-1], expected[:-1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("variance", "name"), [("least", "fixed_small"), ("greatest", "fixed_large"), ("learned", "learned_range")]
)
def test_the_ancestral_sampler_agrees_with_the_library(variance, name, monkeypatch):
    library = diffusers.DDPMScheduler(
        beta_start=1e-4, beta_end=0.02, clip_sample=False, variance_type=name, timestep_spacing="trailing"
    )
    library.set_timesteps(20)
    process = VariancePreserving(schedule="linear")
    levels = torch.cat([library.timesteps.float(), torch.tensor([-1.0])])
    noises = [picture(100 + number) for number in range(20)]
    queue = iter(noises)
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_args, **_kwargs: next(queue)[:, 0]
    )
    network = network_of(lambda t: float(t) / 1000)
    share = lambda x: 0.5 + 0.4 * torch.sin(x)  # noqa: E731

    def both(x, t):
        return torch.cat([network(x, t), 2 * share(x) - 1], dim=1) if variance == "learned" else network(x, t)

    expected = rollout(library, library.timesteps, both, picture()[:, 0])
    found = ours(
        process, Epsilon(), Ancestral(variance=variance), levels, network, picture(),
        variance=share if variance == "learned" else None, noises=noises,
    )  # fmt: skip
    for a, b in zip(found[:-1], expected[:-1], strict=True):
        torch.testing.assert_close(a[:, 0], b, rtol=2e-3, atol=2e-3)


@old_numpy_protocol
def test_the_multistep_solver_agrees_with_the_library():
    library = diffusers.DPMSolverMultistepScheduler(
        beta_start=1e-4, beta_end=0.02, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero",
        timestep_spacing="trailing", lower_order_final=False,
    )  # fmt: skip
    library.set_timesteps(15)
    process = VariancePreserving(schedule="linear")
    levels = torch.cat([library.timesteps.float(), torch.tensor([-1.0])])
    network = network_of(lambda t: float(t) / 1000)
    expected = rollout(library, library.timesteps, network, picture())
    found = ours(process, Epsilon(), DPMSolver(), levels, network, picture())
    for a, b in zip(found[:-1], expected[:-1], strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)


def test_euler_on_edm_noise_agrees_with_the_library():
    library = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=5.0, sigma_data=0.5, sigma_schedule="karras")
    library.set_timesteps(7)
    process = EDM(sigma_min=0.002, sigma_max=5.0)
    network = network_of(lambda _: 0.0)
    x, expected = picture() * 5, []
    for t in library.timesteps:
        x = library.step(network(library.scale_model_input(x, t), t), t, x).prev_sample
        expected.append(x)
    target = EDMPreconditioned(sigma_data=0.5)
    found = ours(process, target, Euler(), process.sampling_levels(7), network, picture() * 5)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_on_a_flow_agrees_with_the_library(shift):
    library = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    library.set_timesteps(sigmas=np.linspace(1, 1 / 6, 6))
    process = RectifiedFlow(shift=shift)
    network = network_of(lambda _: 0.0)
    expected = rollout(library, library.timesteps, network, picture())
    found = ours(process, FlowVelocity(), Euler(), process.sampling_levels(6), network, picture())
    torch.testing.assert_close(process.sampling_levels(6), library.sigmas, rtol=1e-5, atol=1e-6)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@old_numpy_protocol
def test_heun_agrees_with_the_library():
    library = diffusers.HeunDiscreteScheduler(
        beta_start=1e-4, beta_end=0.02, use_karras_sigmas=False, timestep_spacing="trailing"
    )
    library.set_timesteps(8)
    network = network_of(lambda _: 0.0)
    sigmas = library.sigmas.unique_consecutive()
    x = picture() * float(sigmas[0])
    for t in library.timesteps:
        x = library.step(network(library.scale_model_input(x, t), t), t, x).prev_sample
    process = EDM(sigma_min=1e-4, sigma_max=1e4)

    def scaled(x, sigma):
        return network(x * (sigma**2 + 1).rsqrt(), 0)

    found = ours(process, Epsilon(), Heun(), sigmas, scaled, picture() * float(sigmas[0]))
    torch.testing.assert_close(found[-1], x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "sampler", [Euler(), Heun(), DPMSolver(), DDIM(eta=0.5), Ancestral()], ids=lambda one: one.kind
)
def test_a_frame_whose_level_stays_is_left_alone_and_frames_do_not_mix(sampler):
    process = VariancePreserving()
    noisy = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    level = torch.tensor([[700.0, 300.0, -1.0]]).expand(2, -1)
    next_level = torch.tensor([[600.0, 300.0, -1.0]]).expand(2, -1)
    given = noise if sampler.stochastic else None
    moved, previous = advance(sampler, best(process), SamplingStep(process, noisy, level, next_level, given))
    assert torch.equal(moved[:, 1:], noisy[:, 1:])
    assert (moved[:, 0] != noisy[:, 0]).all()
    one = (noisy[:1, :1], level[:1, :1], next_level[:1, :1], None if given is None else given[:1, :1])
    alone, _ = advance(sampler, best(process), SamplingStep(process, *one))
    torch.testing.assert_close(alone, moved[:1, :1])
    if previous is not None:  # what was expected of a waiting frame in its last step is not forgotten
        again = SamplingStep(process, moved, next_level, level, previous=previous)
        _, later = advance(sampler, best(process), again)
        assert torch.equal(later.frame[:, 1:], previous.frame[:, 1:])


def test_a_learned_variance_must_have_been_learned():
    process = VariancePreserving()
    level = torch.full((1, 1), 500.0)
    this = SamplingStep(process, picture(), level, level - 100, picture(1))
    with pytest.raises(ConfigError, match="learned no variance; sample with variance 'least' or 'greatest'"):
        advance(Ancestral(variance="learned"), best(process), this)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Euler(steps=0), "steps must be at least 1, not 0"),
        (lambda: Heun(init_noise_sigma=0.0), "init_noise_sigma must be positive or None, not 0.0"),
        (lambda: DDIM(eta=1.5), "not 1.5"),
        (lambda: DDIM(steps=0), "steps must be at least 1, not 0"),
        (lambda: Ancestral(variance="most"), "'least', 'greatest' or 'learned', not 'most'"),
        (lambda: Ancestral(steps=-1), "steps must be at least 1, not -1"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(make, named):
    with pytest.raises(ConfigError, match=named):
        make()
