"""Noise processes, targets and samplers agree with closed forms, with each other, and with the `diffusers` library."""

from __future__ import annotations

import math
from itertools import pairwise

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from dreamenv.diffusion.forcing import chunkwise, denoise_all, full_sequence, next_frame, pyramid, trapezoid
from dreamenv.diffusion.guidance import guide
from dreamenv.diffusion.objective import add_noise, denoising_error, draw_levels, stabilised
from dreamenv.diffusion.processes import Flow, Karras, VariancePreserving
from dreamenv.diffusion.samplers import DDIM, Ancestral, DPMSolver, Euler, Heun, Pass
from dreamenv.diffusion.shortcut import check_passes, shortcut_error, shortcut_step
from dreamenv.diffusion.targets import Prediction, Target, per_frame
from dreamenv.errors import ConfigError

MEAN, STD = 0.7, 0.4  # of the Gaussian data whose best denoiser is known
PROCESSES = {
    "linear": VariancePreserving(schedule="linear"),
    "cosine": VariancePreserving(schedule="cosine"),
    "sigmoid": VariancePreserving(schedule="sigmoid", shift=2.0),
    "karras": Karras(sigma_max=20.0),
    "flow": Flow(),
    "shifted flow": Flow(shift=3.0),
}
old_numpy_protocol = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def best(process, data_mean=MEAN, data_std=STD):
    """The denoiser that is right for x0 ~ N(data_mean, data_std^2), independently in every pixel."""

    def denoise(noisy: Tensor, level: Tensor) -> Prediction:
        alpha, sigma = (per_frame(value, noisy).double() for value in process.at(level))
        gain = alpha * data_std**2 / (alpha**2 * data_std**2 + sigma**2)
        frame = data_mean + gain * (noisy.double() - alpha * data_mean)
        noise = (noisy.double() - alpha * frame) / sigma.clamp_min(1e-12)
        return Prediction(frame, noise)

    return denoise


def exact(process, noisy: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """Where the probability flow takes Gaussian data: it keeps the rank of every value."""
    spread = [(a.double() * STD).hypot(s.double()) for a, s in (process.at(here), process.at(there))]
    means = [process.at(level)[0].double() * MEAN for level in (here, there)]
    scaled = (noisy - per_frame(means[0], noisy)) / per_frame(spread[0], noisy)
    return per_frame(means[1], noisy) + per_frame(spread[1], noisy) * scaled


def pure(process, rows: int, frames: int, size: int = 64) -> Tensor:
    """Noise as strong as the process's noisiest level, with what is left of the data's mean."""
    level = process.spacing(1)[:1].expand(rows, frames)
    alpha, sigma = (per_frame(v, torch.empty(rows, frames, size)).double() for v in process.at(level))
    z = torch.randn(rows, frames, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return alpha * MEAN + (alpha * STD).hypot(sigma) * z


# Processes


@every_process
def test_levels_go_from_noise_to_clean(process):
    for passes in (1, 2, 7, 50):
        levels = process.spacing(passes)
        assert levels.shape == (passes + 1,)
        assert levels[-1] == process.clean
        assert (levels.diff() < 0).all()
    alpha, sigma = process.at(process.spacing(50))
    assert (alpha[-1], sigma[-1]) == (1, 0)
    assert alpha[0] / sigma[0] < 0.1
    assert ((alpha / sigma).diff() > 0).all()


@every_process
def test_levels_to_train_on_lie_where_the_sampler_goes(process):
    uniform = torch.rand(4, 500, generator=torch.Generator().manual_seed(0))
    levels, ladder = process.draw(uniform), process.spacing(50)
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
        (Flow(), Flow(shift=shift)),
    ):
        before, after = (a[1:-1] / s[1:-1] for a, s in (p.at(p.spacing(20)) for p in (plain, shifted)))
        torch.testing.assert_close(after * shift, before, rtol=1e-3, atol=1e-6)


def test_karras_levels_are_those_of_the_library():
    reference = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_schedule="karras", rho=7.0)
    reference.set_timesteps(12)
    torch.testing.assert_close(Karras().spacing(12), reference.sigmas, rtol=1e-5, atol=1e-6)


# Targets


@pytest.mark.parametrize(
    ("name", "process"),
    [
        ("frame", PROCESSES["cosine"]),
        ("noise", PROCESSES["linear"]),
        ("velocity", PROCESSES["sigmoid"]),
        ("flow", Flow()),
        ("edm", Karras()),
        ("noise", Karras()),
        ("frame", Flow()),
    ],
)
def test_a_network_that_learned_its_lesson_tells_frame_and_noise(name, process):
    target = Target(name=name, process=process)
    generator = torch.Generator().manual_seed(0)
    frames, noise = torch.randn(2, 3, 5, 8, 8, generator=generator), torch.randn(2, 3, 5, 8, 8, generator=generator)
    level = process.draw(torch.rand(2, 3, generator=generator) * 0.8 + 0.1)
    noisy = add_noise(process, frames, noise, level)
    lesson = target.lesson(frames, noise, level)
    found = target.read(lesson, noisy, level)
    torch.testing.assert_close(found.frame, frames, rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(found.noise, noise, rtol=1e-3, atol=2e-3)
    assert float(denoising_error(target, lesson, frames, noise, level).max()) == 0
    clean = torch.full((2, 3), process.clean)
    assert (target.read(lesson, frames, clean).noise == 0).all()
    assert (denoising_error(target, lesson + 1, frames, noise, clean) == 0).all()


def test_edm_asks_for_numbers_of_the_datas_own_size():
    """Karras et al. chose the preconditioning so that input and lesson have variance 1 at every noise level."""
    target = Target(name="edm", process=Karras(), data_std=STD)
    generator = torch.Generator().manual_seed(0)
    for sigma in (0.01, 0.5, 30.0):
        level = torch.full((1, 1), sigma)
        frames, noise = (torch.randn(1, 1, 200_000, generator=generator) * scale for scale in (STD, 1.0))
        seen = add_noise(target.process, frames, noise, level) * target.scale(level)
        assert float(seen.std()) == pytest.approx(1, abs=0.02)
        assert float(target.lesson(frames, noise, level).std()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("name", "process", "would"),
    [("velocity", Karras(), "edm"), ("flow", VariancePreserving(), "velocity"), ("noise", Flow(), "flow")],
)
def test_a_target_that_does_not_go_with_the_noise_is_refused(name, process, would):
    with pytest.raises(ConfigError, match=rf"{name}.*does not go with {type(process).__name__}.*{would}.*would do"):
        Target(name=name, process=process)
    with pytest.raises(ConfigError, match="must be one of frame, noise"):
        Target(name="speed", process=process)


# Samplers


@every_process
@pytest.mark.parametrize(
    ("sampler", "order"), [(Euler(), 1), (Heun(), 2), (DPMSolver(), 2)], ids=["euler", "heun", "dpm"]
)
def test_samplers_follow_the_flow_of_gaussian_data_with_their_order(process, sampler, order):
    """Between two levels at which nothing is extreme, halving the steps divides the error by 2 to the order."""
    ladder = process.spacing(1000 if isinstance(process, VariancePreserving) else 512)
    errors = []
    for stride in (32, 16, 8):
        levels = ladder[-(321 + 320) : -320 : stride]
        x = first = torch.linspace(-2, 3, 64, dtype=torch.float64).reshape(1, 1, 64)
        past = None
        for here, there in pairwise(levels):
            x, past = sampler.step(best(process), Pass(process, x, here.reshape(1, 1), there.reshape(1, 1), past=past))
        errors.append(float((x - exact(process, first, levels[:1, None], levels[-1:, None])).abs().max()))
    rates = [math.log2(a / b) for a, b in pairwise(errors)]
    assert rates[-1] > order - 0.35, (errors, rates)
    assert errors[-1] < (0.03 if order == 1 else 0.003)


@every_process
@pytest.mark.parametrize(
    "sampler",
    [DDIM(0.5), DDIM(1.0), Ancestral(), Ancestral("greatest")],
    ids=["ddim .5", "ddim 1", "least", "greatest"],
)
def test_stochastic_samplers_draw_gaussian_data(process, sampler):
    generator = torch.Generator().manual_seed(1)
    noisy = pure(process, 64, 1, 256)

    def draw(number):
        del number
        return torch.randn(noisy.shape, generator=generator, dtype=torch.float64)

    x = denoise_all(full_sequence(1, 200), process, sampler, best(process), noisy, draw)
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(x.std()) == pytest.approx(STD, abs=0.03)
    with pytest.raises(ConfigError, match="give it as noise="):
        denoise_all(full_sequence(1, 2), process, sampler, best(process), noisy)


def rollout(scheduler, timesteps, network, x, **kwargs):
    """Run a scheduler of the library; returns every intermediate picture."""
    seen = []
    for t in timesteps:
        x = scheduler.step(network(x, t), t, x, **kwargs).prev_sample
        seen.append(x)
    return seen


def network_of(levels_of):
    """Any smooth function passes for a network; what it is told of time differs by library."""
    return lambda x, t: torch.sin(3 * x) * 0.7 + 0.1 * torch.cos(x + levels_of(t))


def ours(process, target, sampler, levels, network, x, variance=None, noises=None):
    seen, past = [], None
    for number, (here, there) in enumerate(pairwise(levels)):

        def denoise(noisy, level):
            output = network(noisy * per_frame(target.scale(level), noisy), level.flatten()[0])
            return target.read(output, noisy, level, None if variance is None else variance(noisy))

        here, there = here.reshape(1, 1), there.reshape(1, 1)
        noise = None if noises is None else noises[number]
        x, past = sampler.step(denoise, Pass(process, x, here, there, noise, past))
        seen.append(x)
    return seen


def picture(seed=0):
    return torch.randn(1, 1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("target", ["noise", "velocity", "frame"])
@pytest.mark.parametrize("steps", [5, 20])
def test_ddim_agrees_with_the_library(target, steps):
    kind = {"noise": "epsilon", "velocity": "v_prediction", "frame": "sample"}[target]
    library = diffusers.DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, clip_sample=False, prediction_type=kind, timestep_spacing="trailing"
    )
    library.set_timesteps(steps)
    process = VariancePreserving(schedule="linear")
    levels = torch.cat([library.timesteps.float(), torch.tensor([-1.0])])
    network = network_of(lambda t: float(t) / 1000)
    expected = rollout(library, library.timesteps, network, picture())
    found = ours(process, Target(name=target, process=process), DDIM(), levels, network, picture())
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
        process, Target(name="noise", process=process), Ancestral(variance), levels, network, picture(),
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
    found = ours(process, Target(name="noise", process=process), DPMSolver(), levels, network, picture())
    for a, b in zip(found[:-1], expected[:-1], strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)


def test_euler_on_karras_noise_agrees_with_the_library():
    library = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=5.0, sigma_data=0.5, sigma_schedule="karras")
    library.set_timesteps(7)
    process = Karras(sigma_min=0.002, sigma_max=5.0)
    network = network_of(lambda _: 0.0)
    x, expected = picture() * 5, []
    for t in library.timesteps:
        x = library.step(network(library.scale_model_input(x, t), t), t, x).prev_sample
        expected.append(x)
    target = Target(name="edm", process=process, data_std=0.5)
    found = ours(process, target, Euler(), process.spacing(7), network, picture() * 5)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_on_a_flow_agrees_with_the_library(shift):
    library = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    library.set_timesteps(sigmas=np.linspace(1, 1 / 6, 6))
    process = Flow(shift=shift)
    network = network_of(lambda _: 0.0)
    expected = rollout(library, library.timesteps, network, picture())
    found = ours(process, Target(name="flow", process=process), Euler(), process.spacing(6), network, picture())
    torch.testing.assert_close(process.spacing(6), library.sigmas, rtol=1e-5, atol=1e-6)
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
    process = Karras(sigma_min=1e-4, sigma_max=1e4)
    target = Target(name="noise", process=process)

    def scaled(x, sigma):
        return network(x * (sigma**2 + 1).rsqrt(), 0)

    found = ours(process, target, Heun(), sigmas, scaled, picture() * float(sigmas[0]))
    torch.testing.assert_close(found[-1], x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "sampler", [Euler(), Heun(), DPMSolver(), DDIM(0.5), Ancestral()], ids=lambda s: type(s).__name__
)
def test_a_frame_whose_level_stays_is_left_alone_and_frames_do_not_mix(sampler):
    process = VariancePreserving()
    noisy = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    here = torch.tensor([[700.0, 300.0, -1.0]]).expand(2, -1)
    there = torch.tensor([[600.0, 300.0, -1.0]]).expand(2, -1)
    given = noise if sampler.stochastic else None
    moved, past = sampler.step(best(process), Pass(process, noisy, here, there, given))
    assert torch.equal(moved[:, 1:], noisy[:, 1:])
    assert (moved[:, 0] != noisy[:, 0]).all()
    one = (noisy[:1, :1], here[:1, :1], there[:1, :1], None if given is None else given[:1, :1])
    alone, _ = sampler.step(best(process), Pass(process, *one))
    torch.testing.assert_close(alone, moved[:1, :1])
    if past is not None:  # what a waiting frame learned in its last pass is not forgotten
        _, again = sampler.step(best(process), Pass(process, moved, there, here, past=past))
        assert torch.equal(again.frame[:, 1:], past.frame[:, 1:])


def test_a_learned_variance_must_have_been_learned():
    process = VariancePreserving()
    level = torch.full((1, 1), 500.0)
    with pytest.raises(ConfigError, match="learned no variance"):
        Ancestral("learned").step(best(process), Pass(process, picture(), level, level - 100, picture(1)))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: VariancePreserving(schedule="square"), "square"),
        (lambda: VariancePreserving(steps=0), "at least 1, not 0"),
        (lambda: VariancePreserving().spacing(0), "passes must be from 1 to 1000.*not 0"),
        (lambda: VariancePreserving(steps=10).spacing(11), "not 11"),
        (lambda: Karras(sigma_min=2, sigma_max=1), "not 2 and 1"),
        (lambda: Karras().spacing(0), "at least 1, not 0"),
        (lambda: Flow(shift=0.0), "positive, not 0.0"),
        (lambda: DDIM(1.5), "not 1.5"),
        (lambda: Ancestral("most"), "most"),
        (lambda: chunkwise(10, 4, 3), "chunk of 3 does not divide 10"),
        (lambda: chunkwise(12, 4, 3, in_flight=3), "3 chunks in flight do not divide 4"),
        (lambda: pyramid(4, 4, -1), "not -1"),
        (lambda: next_frame(4, 0), "at least one pass"),
        (lambda: draw_levels(Flow(), torch.rand(2, 5), "groups"), "group of each of 5 frames, not None"),
        (lambda: draw_levels(Flow(), torch.rand(2, 5), "groups", torch.arange(4)), "group of each of 5 frames"),
        (lambda: draw_levels(Flow(), torch.rand(2, 5), "pairs"), "pairs"),
        (lambda: stabilised(Flow(), torch.rand(2, 5, 1), 0.1, "hidden"), "hidden"),
        (lambda: guide(torch.zeros(1), {"action": torch.ones(1)}, {"text": 2.0}), "action.*text"),
        (lambda: check_passes(3, 8), "1, 2, 4, 8 passes, not for 3"),
        (lambda: check_passes(16, 8), "not for 16"),
        (lambda: check_passes(1, 12), "power of two, not of 12"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(make, named):
    with pytest.raises(ConfigError, match=named):
        make()


# The matrix


def test_matrices_say_who_is_denoised_when():
    assert next_frame(3, 2).left.tolist() == [
        [2, 2, 2],
        [1, 2, 2],
        [0, 2, 2],
        [0, 1, 2],
        [0, 0, 2],
        [0, 0, 1],
        [0, 0, 0],
    ]
    assert full_sequence(3, 2).left.tolist() == [[2, 2, 2], [1, 1, 1], [0, 0, 0]]
    assert pyramid(3, 2).left.tolist() == [[2, 2, 2], [1, 2, 2], [0, 1, 2], [0, 0, 1], [0, 0, 0]]
    assert trapezoid(4, 2).left.tolist() == [[2, 2, 2, 2], [1, 2, 2, 1], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert chunkwise(4, 2, 2, in_flight=2).left.tolist() == [[2, 2, 2, 2], [1, 1, 2, 2], [0, 0, 1, 1], [0, 0, 0, 0]]
    assert pyramid(5, 3, 3).left.tolist() == next_frame(5, 3).left.tolist() == chunkwise(5, 3, 1).left.tolist()
    assert pyramid(5, 3, 0).left.tolist() == full_sequence(5, 3).left.tolist()
    assert [plan.evaluations for plan in (next_frame(5, 3), pyramid(5, 3), full_sequence(5, 3))] == [15, 7, 3]


@pytest.mark.parametrize("plan", [next_frame(4, 40), pyramid(4, 40), trapezoid(4, 40), chunkwise(4, 40, 2, 2)])
@every_process
def test_every_plan_denoises_every_frame(plan, process):
    noisy = pure(process, 2, 4)
    clean = denoise_all(plan, process, DPMSolver(), best(process), noisy)
    top = process.spacing(1)[:1].expand(2, 4)
    error = (clean - exact(process, noisy, top, torch.full((2, 4), process.clean))).abs()
    assert float(error.max()) < 0.15  # of values that span about 2
    together = denoise_all(full_sequence(4, 40), process, DPMSolver(), best(process), noisy)
    torch.testing.assert_close(clean, together)  # frames are independent here, so the plan cannot matter


# Objectives


def test_training_levels_are_shared_as_asked():
    process = VariancePreserving()
    uniform = torch.rand(3, 6, generator=torch.Generator().manual_seed(0))
    independent = draw_levels(process, uniform, "independent")
    assert len(independent.unique()) > 12
    shared = draw_levels(process, uniform, "shared")
    assert torch.equal(shared, shared[:, :1].expand_as(shared))
    last = draw_levels(process, uniform, "last")
    assert (last[:, :-1] == process.clean).all()
    assert torch.equal(last[:, -1], independent[:, -1])
    groups = draw_levels(process, uniform, "groups", torch.tensor([0, 0, 0, 1, 1, 2]))
    assert torch.equal(groups[:, 0], groups[:, 2])
    assert torch.equal(groups[:, 3], groups[:, 4])
    assert (groups[:, 2] != groups[:, 3]).all()


def test_context_is_scaled_or_only_labelled():
    process, frames = VariancePreserving(schedule="sigmoid"), torch.ones(2, 3, 4)
    scaled, levels = stabilised(process, frames, 14, "scaled")
    labelled, same = stabilised(process, frames, 14, "labelled")
    assert torch.equal(levels, same)
    assert torch.equal(labelled, frames)
    torch.testing.assert_close(scaled, frames * process.at(torch.tensor(14.0))[0])
    assert float(scaled.max()) < 1


def test_guidance_pushes_away_from_the_unconditional():
    without, action, memory = torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    guided = guide(without, {"action": action, "memory": memory}, {"action": 1.0, "memory": 3.0})
    assert guided.tolist() == [1.0, 3.0]


# Shortcuts


def straight(signal_at_end: Tensor):
    """A network that knows the frame: every step then lies on the straight way."""
    return lambda noisy, signal, size, rows: signal_at_end[rows].expand_as(noisy)


def test_who_knows_the_frame_makes_no_error_at_any_step_size():
    frames = torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(0))
    noise, uniform = torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(1)), torch.rand(6, 2)
    coarse = torch.tensor([0, 0, 1, 2, 3, 3])
    error = shortcut_error(straight(frames), frames, noise, uniform, finest=8, coarse=coarse)
    assert error.shape == (6, 2)
    assert float(error.max()) < 1e-9
    assert (shortcut_error(straight(frames + 1), frames, noise, uniform, finest=8, coarse=coarse)[:2] > 0).all()


def test_half_steps_are_asked_for_of_rows_that_learn_from_them_alone():
    frames, noise, uniform = torch.randn(4, 2, 5), torch.randn(4, 2, 5), torch.rand(4, 2)
    asked = []

    def network(noisy, signal, size, rows):
        asked.append(rows.tolist())
        return frames[rows]

    shortcut_error(network, frames, noise, uniform, finest=8, coarse=torch.tensor([0, 2, 0, 1]))
    assert asked == [[0, 1, 2, 3], [1, 3], [1, 3]]
    asked.clear()
    shortcut_error(network, frames, noise, uniform, finest=8, coarse=torch.zeros(4, dtype=torch.int64))
    assert asked == [[0, 1, 2, 3]]


def test_a_doubled_step_learns_to_arrive_where_two_halves_do():
    """With the best denoiser of Gaussian data for half steps, the lesson of a whole step is two Euler steps."""
    asked = []

    def network(noisy, signal, size, rows=None):
        asked.append((signal.clone(), size.clone()))
        gain = per_frame(signal * STD**2 / (signal**2 * STD**2 + (1 - signal) ** 2), noisy)
        return MEAN + gain * (noisy - per_frame(signal, noisy) * MEAN)

    frames, noise = torch.zeros(1, 1, 3), torch.tensor([[[-1.0, 0.5, 2.0]]])
    uniform = torch.tensor([[0.3]])
    error = shortcut_error(network, frames, noise, uniform, finest=4, coarse=torch.tensor([1]))
    assert [(float(s), float(d)) for s, d in asked] == [(0.0, 0.5), (0.0, 0.25), (0.25, 0.25)]
    quarter = torch.full((1, 1), 0.25)
    middle = shortcut_step(network, noise, torch.zeros(1, 1), quarter)
    end = shortcut_step(network, middle, quarter, quarter)
    whole = shortcut_step(network, noise, torch.zeros(1, 1), 2 * quarter)
    torch.testing.assert_close(error[0, 0], 0.1 * (((whole - end) * 2) ** 2).mean())


def test_a_small_network_learns_to_draw_in_one_pass_what_it_draws_in_eight():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(3, 64), torch.nn.SiLU(), torch.nn.Linear(64, 64), torch.nn.SiLU(), torch.nn.Linear(64, 1)
    )

    def predict(noisy, signal, size, rows=None):
        told = torch.stack([noisy[..., 0], signal, size.log2()], dim=-1)
        return network(told)

    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for step in range(1500):
        sign = torch.randint(2, (256, 1, 1)) * 2.0 - 1
        frames = sign + 0.05 * torch.randn(256, 1, 1)
        coarse = (
            torch.randint(4, (256,)) * (torch.rand(256) < 0.5) if step > 300 else torch.zeros(256, dtype=torch.long)
        )
        error = shortcut_error(predict, frames, torch.randn(256, 1, 1), torch.rand(256, 1), finest=8, coarse=coarse)
        optimizer.zero_grad()
        error.mean().backward()
        optimizer.step()
    start = torch.randn(2000, 1, 1)
    with torch.no_grad():
        drawn = {}
        for passes in (1, 8):
            x = start
            for number in range(passes):
                signal = torch.full((2000, 1), number / passes)
                x = shortcut_step(predict, x, signal, torch.full((2000, 1), 1 / passes))
            drawn[passes] = x.flatten()
    for passes, values in drawn.items():
        assert float((values.abs() - 1).abs().mean()) < 0.35, passes  # 1 if it drew the mean, 0
    assert float((drawn[1].sign() == drawn[8].sign()).float().mean()) > 0.9
