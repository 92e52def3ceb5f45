"""What a denoiser is trained on: which frame gets which noise, and how far off its prediction is."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from dreamenv.diffusion.preconditioning import Preconditioning, per_frame
from dreamenv.diffusion.process import NoiseProcess
from dreamenv.diffusion.sampler import SamplingStep

__all__ = [
    "add_noise",
    "denoising_error",
    "motion_weight",
    "variance_error",
]

_LEAST = 1e-20  # keeps logarithms finite
_STILL = 1e-3  # mean squared change of a frame in which nothing moves
_MOST_BEFORE, _MOST_NOW = 20.0, 3.0  # times the mean, beyond which movement does not count


def add_noise(process: NoiseProcess, frames: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """Bring clean frames (b, f, ...) to their levels (b, f) with standard normal noise shaped like them."""
    alpha, sigma = (per_frame(value, frames) for value in process.alpha_sigma(level))
    return alpha * frames + sigma * noise


def denoising_error(
    preconditioning: Preconditioning,
    output: Tensor,
    frames: Tensor,
    noise: Tensor,
    level: Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    """Return the mean squared error (b, f) of a network's output; 0 where a frame was clean.

    Args:
        preconditioning: the process and target.
        output: of the network, shaped like the frames.
        frames: (b, f, c, h, w) clean ones.
        noise: in the noisy ones.
        level: (b, f).
        weight: (b, f, h, w) of places, of mean 1, see `motion_weight`; None for all alike.
    """
    error = (output - preconditioning.training_target(frames, noise, level)) ** 2
    if weight is not None:
        error = error * weight[:, :, None]
    noisy = level != preconditioning.process.clean
    return error.flatten(2).mean(2) * noisy


def motion_weight(frames: Tensor, share: float) -> Tensor:
    """Weigh places by how much they move, so that what is small and moves is learned before the texture of walls.

    A place moves as much as it changes between two frames, relative to the mean of its frame. What moved just before,
    there or next to it, counts up to 20 times: that is known when a frame is sampled, so it is sampled no more often
    than it occurs. What moves into this frame counts up to three times, and is sampled a little more often. (With 20
    times, dreams were soon full of it.)

    Args:
        frames: (b, f, c, h, w) clean ones, in order.
        share: how much of the weight is given by movement, in [0, 1).

    Returns:
        (b, f, h, w), of mean 1 in every frame.
    """
    change = (frames[:, 1:] - frames[:, :-1]).square().mean(2)
    nothing = torch.zeros_like(frames[:, :1, 0])
    now = torch.cat((nothing, change), dim=1)
    before = functional.max_pool2d(torch.cat((nothing, now[:, :-1]), dim=1), 3, stride=1, padding=1)

    def relative(moved: Tensor, most: float) -> Tensor:
        mean = moved.mean((-2, -1), keepdim=True)
        return (moved / mean.clamp_min(_STILL)).clamp_max(most)

    weight = 1 - share + share * (relative(before, _MOST_BEFORE) + relative(now, _MOST_NOW)) / 2
    return weight / weight.mean((-2, -1), keepdim=True)


def variance_error(
    preconditioning: Preconditioning, output: Tensor, variance: Tensor, frames: Tensor, noise: Tensor, level: Tensor
) -> Tensor:
    """Return how far one step of a chain, sampled with a learned variance, is from the true one, in bits (b, f).

    That is the divergence between both in the mean over values (Nichol and Dhariwal 2021), which teaches the variance
    alone. It is 0 where a step leads to a clean frame, in which nothing is sampled.

    Args:
        preconditioning: of a process that counts its steps (`dreamenv.diffusion.process.VariancePreserving`).
        output: of the network, shaped like the frames; no gradient reaches it.
        variance: where the variance lies between the least and the greatest one, see `Prediction`.
        frames: (b, f, ...) clean ones.
        noise: in the noisy ones.
        level: (b, f).
    """
    noisy = add_noise(preconditioning.process, frames, noise, level)
    step = SamplingStep(preconditioning.process, noisy, level, (level - 1).clamp_min(preconditioning.process.clean))
    sampled = per_frame(step.next_level != preconditioning.process.clean, frames)
    variances = step.variances()
    least, greatest = (per_frame(value.clamp_min(_LEAST).log(), frames) * sampled for value in variances)
    found = preconditioning.read(output.detach(), noisy, level)
    alpha, sigma = preconditioning.process.alpha_sigma(step.next_level)
    kept = (sigma**2 - variances[0]).clamp_min(0).sqrt()
    missed = per_frame(alpha, frames) * (frames - found.frame) + per_frame(kept, frames) * (noise - found.noise)
    log_variance = least + variance * (greatest - least)
    nats = (
        log_variance - least + (least - log_variance).exp() - 1 + (missed * sampled) ** 2 * (-log_variance).exp()
    ) / 2
    return nats.flatten(2).mean(2) / math.log(2)
