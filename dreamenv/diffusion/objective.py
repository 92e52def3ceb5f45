"""Training a denoiser: which frame gets which noise, what is asked of the network, and how context is presented."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from dreamenv.diffusion.processes import NoiseProcess
from dreamenv.diffusion.samplers import Pass
from dreamenv.diffusion.targets import Target, per_frame
from dreamenv.errors import ConfigError

__all__ = [
    "LevelDraw",
    "Manner",
    "add_noise",
    "denoising_error",
    "draw_levels",
    "stabilised",
    "variance_error",
    "weight_of_moving",
]

_LEAST = 1e-20  # keeps logarithms finite
_STILL = 1e-3  # mean squared change of a frame in which nothing moves
_MOST_BEFORE, _MOST_NOW = 20.0, 3.0  # times the mean, beyond which movement does not count

LevelDraw = Literal["independent", "shared", "last", "groups"]
"""Who shares a noise level in training: no frame with another (Diffusion Forcing, Chen et al. 2024); all (full-sequence
diffusion); the last frame alone is noisy (next-frame, as in DIAMOND); the frames of a group (MAGI-1's chunks)."""

Manner = Literal["scaled", "labelled"]
"""How a clean context frame passes for a slightly noisy one: shrunk to what is left of it at that level (Diffusion
Forcing), or unchanged under that level's label (Oasis)."""


def draw_levels(process: NoiseProcess, uniform: Tensor, draw: LevelDraw, groups: Tensor | None = None) -> Tensor:
    """Return levels (b, f) to train on.

    Args:
        process: whose levels.
        uniform: (b, f) numbers in (0, 1); those that are not used are ignored.
        draw: who shares a level.
        groups: (f,) int64, the group of each frame, counted from 0; for "groups".

    Raises:
        ConfigError: an unknown way to draw, or groups of another number of frames.
    """
    if draw not in get_args(LevelDraw):
        raise ConfigError(f"levels are drawn {', '.join(get_args(LevelDraw))}, not {draw!r}.")
    frames = uniform.shape[1]
    if draw == "groups" and (groups is None or len(groups) != frames):
        raise ConfigError(f"levels by group need the group of each of {frames} frames, not {groups}.")
    if draw == "shared":
        uniform = uniform[:, :1].expand_as(uniform)
    elif draw == "groups":
        uniform = uniform[:, groups]
    levels = process.draw(uniform)
    if draw == "last":
        context = torch.full_like(levels[:, :-1], process.clean)
        levels = torch.cat([context, levels[:, -1:]], dim=1)
    return levels


def add_noise(process: NoiseProcess, frames: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """Bring clean frames (b, f, ...) to their levels (b, f) with standard normal noise shaped like them."""
    alpha, sigma = (per_frame(value, frames) for value in process.at(level))
    return alpha * frames + sigma * noise


def denoising_error(
    target: Target, output: Tensor, frames: Tensor, noise: Tensor, level: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Return the mean squared error (b, f) of a network's output; 0 where a frame was clean and nothing was asked.

    Args:
        target: what was to be said.
        output: what the network said of the frames, shaped like them.
        frames: (b, f, c, h, w) clean ones.
        noise: in the noisy ones.
        level: (b, f).
        weight: (b, f, h, w) of places, of mean 1, see `weight_of_moving`; None for all alike.
    """
    error = (output - target.lesson(frames, noise, level)) ** 2
    if weight is not None:
        error = error * weight[:, :, None]
    asked = level != target.process.clean
    return error.flatten(2).mean(2) * asked


def weight_of_moving(frames: Tensor, share: float) -> Tensor:
    """Weigh places by how much they move, so that what is small and moves is learned before the texture of walls.

    A place moves as much as it changes between two frames, beside the mean of its frame. What moved just before, there
    or next to it, counts up to 20 times: that is known when a frame is drawn, so it is drawn no more often than it is
    there. What moves into this frame counts up to three times, and is drawn a little more often. (With 20 times, dreams
    were soon full of it.)

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

    def beside_mean(moved: Tensor, most: float) -> Tensor:
        mean = moved.mean((-2, -1), keepdim=True)
        return (moved / mean.clamp_min(_STILL)).clamp_max(most)

    weight = 1 - share + share * (beside_mean(before, _MOST_BEFORE) + beside_mean(now, _MOST_NOW)) / 2
    return weight / weight.mean((-2, -1), keepdim=True)


def variance_error(
    target: Target, output: Tensor, variance: Tensor, frames: Tensor, noise: Tensor, level: Tensor
) -> Tensor:
    """Return how far one step of a chain, drawn with a learned variance, is from the true one, in bits (b, f).

    That is the divergence between both in the mean over values (Nichol and Dhariwal 2021), which teaches the variance
    alone. It is 0 where a step leads to a clean frame, in which nothing is drawn.

    Args:
        target: of a chain that counts its steps (`dreamenv.diffusion.processes.VariancePreserving`).
        output: what the network says of the frames, shaped like them; no gradient reaches it.
        variance: where the variance lies between the least and the greatest one, see `Prediction`.
        frames: (b, f, ...) clean ones.
        noise: in the noisy ones.
        level: (b, f).
    """
    noisy = add_noise(target.process, frames, noise, level)
    step = Pass(target.process, noisy, level, (level - 1).clamp_min(target.process.clean))
    drawn = per_frame(step.there != target.process.clean, frames)
    variances = step.variances()
    least, greatest = (per_frame(value.clamp_min(_LEAST).log(), frames) * drawn for value in variances)
    found = target.read(output.detach(), noisy, level)
    alpha, sigma = target.process.at(step.there)
    kept = (sigma**2 - variances[0]).clamp_min(0).sqrt()
    missed = per_frame(alpha, frames) * (frames - found.frame) + per_frame(kept, frames) * (noise - found.noise)
    said = least + variance * (greatest - least)
    nats = (said - least + (least - said).exp() - 1 + (missed * drawn) ** 2 * (-said).exp()) / 2
    return nats.flatten(2).mean(2) / math.log(2)


def stabilised(process: NoiseProcess, frames: Tensor, level: float, manner: Manner) -> tuple[Tensor, Tensor]:
    """Present clean context as slightly noisy, so that the network forgives what it drew a little wrong itself.

    Args:
        process: whose levels.
        frames: (b, f, ...) clean frames.
        level: what they pass for.
        manner: how.

    Returns:
        Frames and levels (b, f) for the network.

    Raises:
        ConfigError: an unknown manner.
    """
    if manner not in get_args(Manner):
        raise ConfigError(f"context is {' or '.join(get_args(Manner))}, not {manner!r}.")
    levels = torch.full(frames.shape[:2], level, device=frames.device)
    if manner == "labelled":
        return frames, levels
    alpha, _ = process.at(levels)
    return per_frame(alpha, frames) * frames, levels
