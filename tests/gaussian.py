"""Data whose best denoiser is known in closed form, and the loop of a sampler around any denoiser."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from dreamenv.diffusion.preconditioning import Prediction, per_frame
from dreamenv.diffusion.process import EDM, NoiseProcess, RectifiedFlow, VariancePreserving
from dreamenv.diffusion.sampler import PreviousStep, Sampler, SamplingStep
from dreamenv.diffusion.schedule import SchedulingMatrix

Denoise = Callable[[Tensor, Tensor], Prediction]

MEAN, STD = 0.7, 0.4
PROCESSES = {
    "linear": VariancePreserving(schedule="linear"),
    "cosine": VariancePreserving(schedule="cosine"),
    "sigmoid": VariancePreserving(schedule="sigmoid", shift=2.0),
    "edm": EDM(sigma_max=20.0),
    "flow": RectifiedFlow(),
    "shifted flow": RectifiedFlow(shift=3.0),
}


def best(process: NoiseProcess) -> Denoise:
    """The denoiser that is right for x0 ~ N(MEAN, STD^2), independently in every pixel."""

    def denoise(noisy: Tensor, level: Tensor) -> Prediction:
        alpha, sigma = (per_frame(value, noisy).double() for value in process.alpha_sigma(level))
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        frame = MEAN + gain * (noisy.double() - alpha * MEAN)
        return Prediction(frame, (noisy.double() - alpha * frame) / sigma.clamp_min(1e-12))

    return denoise


def exact(process: NoiseProcess, noisy: Tensor, level: Tensor, next_level: Tensor) -> Tensor:
    """Where the probability flow takes Gaussian data: it keeps the rank of every value."""
    ends = [process.alpha_sigma(one) for one in (level, next_level)]
    means = [per_frame(alpha.double() * MEAN, noisy) for alpha, _ in ends]
    stds = [per_frame((alpha.double() * STD).hypot(sigma.double()), noisy) for alpha, sigma in ends]
    return means[1] + stds[1] * (noisy - means[0]) / stds[0]


def pure_noise(process: NoiseProcess, rows: int, frames: int, size: int = 64) -> Tensor:
    """Noise as strong as the process's noisiest level, with what is left of the data's mean."""
    level = process.sampling_levels(1)[:1].expand(rows, frames)
    alpha, sigma = (per_frame(v, torch.empty(rows, frames, size)).double() for v in process.alpha_sigma(level))
    z = torch.randn(rows, frames, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return alpha * MEAN + (alpha * STD).hypot(sigma) * z


def advance(sampler: Sampler, denoise: Denoise, this: SamplingStep) -> tuple[Tensor, PreviousStep | None]:
    """Make one step, corrected unless all frames are clean after it."""
    found = denoise(this.noisy, this.level)
    reached, previous = sampler.step(this, found)
    if sampler.corrects and bool((this.next_level != this.process.clean).any()):
        reached = sampler.correct(this, found, denoise(reached, this.next_level))
    return reached, previous


def denoise_all(
    matrix: SchedulingMatrix,
    process: NoiseProcess,
    sampler: Sampler,
    denoise: Denoise,
    noisy: Tensor,
    noise: Callable[[], Tensor] | None = None,
) -> Tensor:
    """Bring noisy frames (b, f, ...) straight through a scheduling matrix."""
    levels, previous = matrix.levels(process), None
    for level, next_level in pairwise(levels):
        rows = level.expand(len(noisy), -1), next_level.expand(len(noisy), -1)
        this = SamplingStep(process, noisy, *rows, None if noise is None else noise(), previous)
        noisy, previous = advance(sampler, denoise, this)
    return noisy
