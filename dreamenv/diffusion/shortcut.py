"""Shortcut forcing: a denoiser that is given the size of a step, so that a frame costs 4, 2 or 1 of them.

The network knows the signal tau of a noisy frame z = (1 - tau) e + tau x0, and the size d of the step it is asked for,
and predicts the clean frame. Steps of the finest size learn from data; a step of twice a size learns to arrive where
two of that size arrive. After Dreamer 4 (Hafner et al. 2025), which has it from shortcut models (Frans et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamenv.diffusion.preconditioning import per_frame
from dreamenv.diffusion.sampler import Euler
from dreamenv.errors import ConfigError

__all__ = ["Shortcut", "shortcut_error", "shortcut_step"]

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(noisy frames (b, f, ...), signal (b, f) in [0, 1), step size (b, f)) -> clean frames expected."""

_OfRows = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # the same, given which of the rows (n,) int64 these are

_RAMP = 0.9  # a step from pure noise weighs 1 - this: it can only predict the mean


@dataclass(frozen=True, kw_only=True)
class Shortcut(Euler, kind="shortcut"):
    """Euler's steps, of which the network is given the size.

    Attributes:
        steps: 1, 2, 4 ... up to ``max_steps``.
        max_steps: steps of the finest size that is learned, a power of two.

    Raises:
        ConfigError: steps of a size that is not learned.
    """

    steps: int = 4
    max_steps: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        trained = [1 << e for e in range(self.max_steps.bit_length())]
        if self.max_steps < 1 or self.max_steps & (self.max_steps - 1):
            raise ConfigError(f"max_steps must be a power of two, not {self.max_steps}.")
        if self.steps not in trained:
            raise ConfigError(f"shortcuts are learned for {', '.join(map(str, trained))} steps, not for {self.steps}.")

    @property
    def step_size(self) -> float:
        """Share of the way from noise that a step makes."""
        return 1 / self.steps

    @property
    def finest_step_size(self) -> float:
        """The smallest one that is learned."""
        return 1 / self.max_steps


def shortcut_step(network: Network, noisy: Tensor, signal: Tensor, size: Tensor) -> Tensor:
    """Take one step: frames (b, f, ...) at signal (b, f) come to signal + size."""
    towards = (network(noisy, signal, size) - noisy) / per_frame(1 - signal, noisy)
    return noisy + per_frame(size, noisy) * towards


def shortcut_error(
    network: _OfRows, frames: Tensor, noise: Tensor, uniform: Tensor, *, finest: int, coarse: Tensor
) -> Tensor:
    """Return the loss of each frame, (b, f).

    Args:
        network: trained by it; is asked for the half steps of some rows alone, and given which, (n,) int64.
        frames: (b, f, ...) clean frames.
        noise: standard normal, shaped like them.
        uniform: (b, f) numbers in [0, 1), which choose the signal.
        finest: number of steps of the finest size, a power of two.
        coarse: (b,) int64, how often each row's step size is doubled: 0 learns from data, more from two half steps.

    Raises:
        ConfigError: a finest size that is no power of two, or a step larger than the whole way.
    """
    if finest < 1 or finest & (finest - 1):
        raise ConfigError(f"the finest step must be one of a power of two, not of {finest}.")
    doubled = int(coarse.max()) if coarse.numel() else 0
    if int(coarse.min()) < 0 or 1 << doubled > finest:
        raise ConfigError(f"steps can be doubled 0 to {finest.bit_length() - 1} times, not {coarse.tolist()}.")
    size = (2.0**coarse / finest)[:, None].expand_as(uniform)
    signal = (uniform / size).floor() * size
    z = per_frame(1 - signal, frames) * noise + per_frame(signal, frames) * frames
    expected = network(z, signal, size, torch.arange(len(frames), device=frames.device))
    target, rows = frames, coarse.nonzero()[:, 0]
    if len(rows):

        def of_these(noisy: Tensor, signal: Tensor, size: Tensor) -> Tensor:
            return network(noisy, signal, size, rows)

        with torch.no_grad():
            noisy, at, half = z[rows], signal[rows], size[rows] / 2
            middle = shortcut_step(of_these, noisy, at, half)
            arrived = shortcut_step(of_these, middle, at + half, half)
            # Where one step must point to arrive there, as a clean frame.
            towards = noisy + per_frame((1 - at) / size[rows], noisy) * (arrived - noisy)
            target = frames.index_copy(0, rows, towards)
    weight = _RAMP * signal + 1 - _RAMP
    return weight * ((expected - target) ** 2).flatten(2).mean(2)
