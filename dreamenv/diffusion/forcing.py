"""The noise-level matrix: which frame is at which noise level before each pass.

Rows are passes, columns the frames in flight; entries count the levels that are left, from ``passes`` (pure noise) to 0
(clean), and index `NoiseProcess.spacing` from its end. Next-frame, pyramid, trapezoid, chunk-wise and full-sequence
generation differ in nothing but when a frame starts to be denoised; from then on it moves one level per row. See
"Diffusion Forcing" (Chen et al. 2024) for the first three, MAGI-1 (2025) for chunks in flight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamenv.diffusion.processes import NoiseProcess
from dreamenv.diffusion.samplers import Denoise, Pass, Past, Sampler
from dreamenv.errors import ConfigError

__all__ = [
    "LevelMatrix",
    "backwards",
    "chunkwise",
    "denoise_all",
    "ends_first",
    "from_starts",
    "full_sequence",
    "next_frame",
    "pyramid",
    "trapezoid",
]


@dataclass(frozen=True)
class LevelMatrix:
    """A plan of denoising.

    Attributes:
        left: (rows, frames) int64, the levels that are left before each pass, and after the last one; from ``passes``
            to 0 in every column.
    """

    left: NDArray[np.int64]

    @property
    def passes(self) -> int:
        """Levels that every frame goes through."""
        return int(self.left[0].max())

    @property
    def evaluations(self) -> int:
        """How often the network runs over the frames in flight: rows in which some frame moves."""
        return int((self.left[1:] != self.left[:-1]).any(1).sum())

    def levels(self, process: NoiseProcess) -> Tensor:
        """Return the process's levels, (rows, frames) float32."""
        ladder = process.spacing(self.passes).flip(0)
        return ladder[torch.from_numpy(self.left)]


def from_starts(starts: NDArray[np.int64], passes: int) -> LevelMatrix:
    """Let frames begin at the given rows, (frames,) int64, and move one level per row from then on.

    Raises:
        ConfigError: no pass or no frame.
    """
    if passes < 1 or starts.size < 1:
        raise ConfigError(f"there must be at least one pass and one frame, not {passes} and {starts.size}.")
    rows = np.arange(int(starts.max()) + passes + 1)[:, None]
    return LevelMatrix(np.clip(passes - (rows - starts[None]), 0, passes).astype(np.int64))


def next_frame(frames: int, passes: int) -> LevelMatrix:
    """Finish every frame before the next one begins: full autoregression."""
    return from_starts(np.arange(frames) * passes, passes)


def full_sequence(frames: int, passes: int) -> LevelMatrix:
    """Denoise all frames together: holistic diffusion."""
    return from_starts(np.zeros(frames, np.int64), passes)


def pyramid(frames: int, passes: int, delay: int = 1) -> LevelMatrix:
    """Let every frame begin ``delay`` rows after the one before: the future stays vaguer than the present.

    Raises:
        ConfigError: a negative delay; 0 is `full_sequence`, ``passes`` is `next_frame`.
    """
    if delay < 0:
        raise ConfigError(f"delay must be at least 0 rows, not {delay}.")
    return from_starts(np.arange(frames) * delay, passes)


def ends_first(frames: int, passes: int) -> LevelMatrix:
    """Finish the last frame, then all between: they cannot drift from where they must arrive (FramePack)."""
    starts = np.zeros(frames, np.int64)
    starts[:-1] = passes
    return from_starts(starts, passes)


def backwards(frames: int, passes: int) -> LevelMatrix:
    """Finish every frame before the one that precedes it begins (FramePack's inverted order)."""
    return from_starts(np.arange(frames)[::-1] * passes, passes)


def trapezoid(frames: int, passes: int, delay: int = 1) -> LevelMatrix:
    """Denoise from both ends towards the middle, each frame ``delay`` rows after its neighbour.

    Raises:
        ConfigError: a negative delay.
    """
    if delay < 0:
        raise ConfigError(f"delay must be at least 0 rows, not {delay}.")
    order = np.arange(frames)
    return from_starts(np.minimum(order, order[::-1]) * delay, passes)


def chunkwise(frames: int, passes: int, chunk: int, in_flight: int = 1) -> LevelMatrix:
    """Denoise ``chunk`` frames together, with several chunks in flight, evenly apart.

    Args:
        frames: in all.
        passes: levels that every frame goes through.
        chunk: frames per chunk.
        in_flight: chunks that are denoised at a time; 1 finishes each before the next begins.

    Raises:
        ConfigError: a chunk that does not divide the frames, or chunks in flight that do not divide the passes.
    """
    if chunk < 1 or frames % chunk:
        raise ConfigError(f"a chunk of {chunk} does not divide {frames} frames.")
    if in_flight < 1 or passes % in_flight:
        raise ConfigError(
            f"{in_flight} chunks in flight do not divide {passes} passes: they could not be evenly apart."
        )
    return from_starts(np.arange(frames) // chunk * (passes // in_flight), passes)


def denoise_all(
    matrix: LevelMatrix,
    process: NoiseProcess,
    sampler: Sampler,
    denoise: Denoise,
    noisy: Tensor,
    draw: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """Go through a whole matrix.

    Args:
        matrix: the plan, for f frames.
        process: of the noise.
        sampler: what one pass does.
        denoise: the network.
        noisy: (b, f, ...) frames of pure noise, with the standard deviation that the process has there.
        draw: gives the noise (b, f, ...) of a pass, by its number; for stochastic samplers.

    Returns:
        Clean frames (b, f, ...).
    """
    levels = matrix.levels(process).to(noisy.device, non_blocking=True)
    rows = noisy.shape[0]
    past: Past | None = None
    for number in range(len(levels) - 1):
        here, there = (level.expand(rows, -1) for level in levels[number : number + 2])
        noise = draw(number) if draw is not None and sampler.stochastic else None
        noisy, past = sampler.step(denoise, Pass(process, noisy, here, there, noise, past))
    return noisy
