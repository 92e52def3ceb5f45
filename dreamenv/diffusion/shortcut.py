"""Shortcut forcing: a denoiser that is told how far it shall go, so that a frame costs 4, 2 or 1 passes.

The network knows the signal tau of a noisy frame z = (1 - tau) e + tau x0, and the size d of the step it is asked for,
and predicts the clean frame. Steps of the finest size learn from data; a step of twice a size learns to arrive where
two of that size arrive. After Dreamer 4 (Hafner et al. 2025), which has it from shortcut models (Frans et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dreamenv.diffusion.targets import per_frame
from dreamenv.errors import ConfigError

__all__ = ["check_passes", "shortcut_error", "shortcut_step"]

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(noisy frames (b, f, ...), signal (b, f) in [0, 1), step size (b, f)) -> clean frames expected."""

_OfRows = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # the same, told which of the rows (n,) int64 these are

_RAMP = 0.9  # a step from pure noise weighs 1 - this: it can only tell the mean


def check_passes(passes: int, finest: int) -> None:
    """Say whether frames can be drawn in so many passes.

    Args:
        passes: asked for.
        finest: the number of steps of the finest size, a power of two.

    Raises:
        ConfigError: not a power of two from 1 to the finest.
    """
    trained = [1 << e for e in range(finest.bit_length())]
    if finest < 1 or finest & (finest - 1):
        raise ConfigError(f"the finest step must be one of a power of two, not of {finest}.")
    if passes not in trained:
        raise ConfigError(f"this model learned steps for {', '.join(map(str, trained))} passes, not for {passes}.")


def shortcut_step(network: Network, noisy: Tensor, signal: Tensor, size: Tensor) -> Tensor:
    """Take one step: frames (b, f, ...) at signal (b, f) come to signal + size."""
    towards = (network(noisy, signal, size) - noisy) / per_frame(1 - signal, noisy)
    return noisy + per_frame(size, noisy) * towards


def shortcut_error(
    network: _OfRows, frames: Tensor, noise: Tensor, uniform: Tensor, *, finest: int, coarse: Tensor
) -> Tensor:
    """Return the loss of each frame, (b, f).

    Args:
        network: trained by it; is asked for the half steps of some rows alone, and told which, (n,) int64.
        frames: (b, f, ...) clean frames.
        noise: standard normal, shaped like them.
        uniform: (b, f) numbers in [0, 1), which choose the signal.
        finest: number of steps of the finest size, a power of two.
        coarse: (b,) int64, how often each row's step size is doubled: 0 learns from data, more from two half steps.

    Raises:
        ConfigError: a finest size that is no power of two, or a step larger than the whole way.
    """
    check_passes(1, finest)
    doubled = int(coarse.max()) if coarse.numel() else 0
    if int(coarse.min()) < 0 or 1 << doubled > finest:
        raise ConfigError(f"steps can be doubled 0 to {finest.bit_length() - 1} times, not {coarse.tolist()}.")
    size = (2.0**coarse / finest)[:, None].expand_as(uniform)
    signal = (uniform / size).floor() * size
    z = per_frame(1 - signal, frames) * noise + per_frame(signal, frames) * frames
    expected = network(z, signal, size, torch.arange(len(frames), device=frames.device))
    lesson, rows = frames, coarse.nonzero()[:, 0]
    if len(rows):

        def of_these(noisy: Tensor, signal: Tensor, size: Tensor) -> Tensor:
            return network(noisy, signal, size, rows)

        with torch.no_grad():
            begun, at, half = z[rows], signal[rows], size[rows] / 2
            middle = shortcut_step(of_these, begun, at, half)
            arrived = shortcut_step(of_these, middle, at + half, half)
            # Where one step must point to arrive there, as a clean frame.
            towards = begun + per_frame((1 - at) / size[rows], begun) * (arrived - begun)
            lesson = frames.index_copy(0, rows, towards)
    weight = _RAMP * signal + 1 - _RAMP
    return weight * ((expected - lesson) ** 2).flatten(2).mean(2)
