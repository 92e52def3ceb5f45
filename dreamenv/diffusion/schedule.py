"""Noise schedules of several frames: who is denoised when, as a scheduling matrix.

Rows are steps, columns the frames in flight; entries count the levels that are left, from ``steps`` (pure noise) to 0
(clean), and index `NoiseProcess.sampling_levels` from its end. Next-frame, pyramid, trapezoid, chunk-wise and
full-sequence generation differ in nothing but when a frame starts to be denoised; from then on it moves one level per
row. See "Diffusion Forcing" (Chen et al. 2024) for the first three, MAGI-1 (2025) for chunks in flight.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamenv.diffusion.process import NoiseProcess
from dreamenv.errors import ConfigError
from dreamenv.parts import Part

__all__ = [
    "Backwards",
    "Chunkwise",
    "EndsFirst",
    "FullSequence",
    "NextFrame",
    "Pyramid",
    "Schedule",
    "SchedulingMatrix",
    "Trapezoid",
]

Starts = NDArray[np.int64]


@dataclass(frozen=True)
class SchedulingMatrix:
    """Levels before each step.

    Attributes:
        left: (rows, frames) int64, the levels that are left before each step, and after the last one; from ``steps``
            to 0 in every column.
    """

    left: Starts

    @classmethod
    def from_starts(cls, starts: Starts, steps: int) -> SchedulingMatrix:
        """Let frames begin at the given rows, (frames,) int64, and move one level per row from then on.

        Raises:
            ConfigError: no step or no frame.
        """
        if steps < 1 or starts.size < 1:
            raise ConfigError(f"there must be at least one step and one frame, not {steps} and {starts.size}.")
        rows = np.arange(int(starts.max()) + steps + 1)[:, None]
        return cls(np.clip(steps - (rows - starts[None]), 0, steps).astype(np.int64))

    @property
    def steps(self) -> int:
        """Levels that every frame goes through."""
        return int(self.left[0].max())

    @property
    def evaluations(self) -> int:
        """How often the network runs over the frames in flight: rows in which some frame moves."""
        return int((self.left[1:] != self.left[:-1]).any(1).sum())

    def levels(self, process: NoiseProcess) -> Tensor:
        """Return the process's levels, (rows, frames) float32."""
        ladder = process.sampling_levels(self.steps).flip(0)
        return ladder[torch.from_numpy(self.left)]


@dataclass(frozen=True, kw_only=True)
class Schedule(Part, ABC):
    """When each frame starts to be denoised.

    Attributes:
        frames: that are denoised together, a chunk.

    Raises:
        ConfigError: too few frames.
    """

    frames: int = 2

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise ConfigError(
                f"the schedule {self.kind!r} orders several frames; frames must be at least 2, not {self.frames}. Use "
                "'next_frame' for one."
            )

    @property
    def group_size(self) -> int:
        """Frames of a chunk that see each other both ways in a causal network."""
        return 1

    @abstractmethod
    def starts(self, steps: int) -> Starts:
        """Return the rows at which the frames begin, (frames,), each to take so many steps.

        Raises:
            ConfigError: steps that do not go with the schedule.
        """

    def matrix(self, steps: int) -> SchedulingMatrix:
        """Return the scheduling matrix."""
        return SchedulingMatrix.from_starts(self.starts(steps), steps)


@dataclass(frozen=True, kw_only=True)
class NextFrame(Schedule, kind="next_frame"):
    """Finish every frame before the next one begins: full autoregression."""

    frames: int = 1

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ConfigError(f"frames must be at least 1, not {self.frames}.")

    def starts(self, steps: int) -> Starts:
        """See `Schedule`."""
        return np.arange(self.frames) * steps


@dataclass(frozen=True, kw_only=True)
class FullSequence(Schedule, kind="full_sequence"):
    """Denoise all frames together: holistic diffusion."""

    @property
    def group_size(self) -> int:
        """All of them."""
        return self.frames

    def starts(self, steps: int) -> Starts:
        """See `Schedule`."""
        return np.zeros(self.frames, np.int64)


@dataclass(frozen=True, kw_only=True)
class Pyramid(Schedule, kind="pyramid"):
    """Let every frame begin a few rows after the one before: the future stays vaguer than the present.

    Attributes:
        delay: rows; as many as there are steps make it `NextFrame`.

    Raises:
        ConfigError: a delay below 1; 0 would be `FullSequence`.
    """

    delay: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_delay(self.delay)

    def starts(self, steps: int) -> Starts:
        """See `Schedule`."""
        _check_delay(self.delay, steps)
        return np.arange(self.frames) * self.delay


@dataclass(frozen=True, kw_only=True)
class Trapezoid(Schedule, kind="trapezoid"):
    """Denoise from both ends towards the middle, each frame a few rows after its neighbour.

    Attributes:
        delay: rows.

    Raises:
        ConfigError: a delay below 1, or two frames, which have no middle.
    """

    frames: int = 3
    delay: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < 3:
            raise ConfigError(
                f"a trapezoid of {self.frames} frames has no middle to delay; use 3 or more, or 'full_sequence'."
            )
        _check_delay(self.delay)

    def starts(self, steps: int) -> Starts:
        """See `Schedule`."""
        _check_delay(self.delay, steps)
        order = np.arange(self.frames)
        return np.minimum(order, order[::-1]) * self.delay


@dataclass(frozen=True, kw_only=True)
class EndsFirst(Schedule, kind="ends_first"):
    """Finish the last frame, then all between: they cannot drift from where they must arrive (FramePack)."""

    def starts(self, steps: int) -> Starts:
        """See `Schedule`."""
        starts = np.zeros(self.frames, np.int64)
        starts[:-1] = steps
        return starts


@dataclass(frozen=True, kw_only=True)
class Backwards(Schedule, kind="backwards"):
    """Finish every frame before the one that precedes it begins (FramePack's inverted order)."""

    def starts(self, steps: int) -> Starts:
        """See `Schedule`."""
        return np.arange(self.frames)[::-1] * steps


@dataclass(frozen=True, kw_only=True)
class Chunkwise(Schedule, kind="chunkwise"):
    """Denoise groups of frames together, with several groups in flight, evenly apart (MAGI-1).

    Attributes:
        group: frames per group, which see each other both ways.
        in_flight: groups that are denoised at a time; 1 finishes each before the next begins.

    Raises:
        ConfigError: a group that does not divide the frames, no group in flight, or several where there is one.
    """

    group: int = 1
    in_flight: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group < 1 or self.frames % self.group:
            raise ConfigError(f"a group of {self.group} does not divide {self.frames} frames.")
        if self.in_flight < 1:
            raise ConfigError(f"in_flight must be at least 1, not {self.in_flight}.")
        if self.in_flight > 1 and self.group == self.frames:
            raise ConfigError(
                f"all {self.frames} frames are one group, so in_flight={self.in_flight} has no effect; leave it at 1, "
                "or make group smaller."
            )

    @property
    def group_size(self) -> int:
        """Frames per group."""
        return self.group

    def starts(self, steps: int) -> Starts:
        """See `Schedule`.

        Raises:
            ConfigError: groups in flight that do not divide the steps.
        """
        if steps % self.in_flight:
            raise ConfigError(
                f"{self.in_flight} groups in flight do not divide {steps} steps: they could not be evenly apart."
            )
        return np.arange(self.frames) // self.group * (steps // self.in_flight)


def _check_delay(delay: int, steps: int | None = None) -> None:
    if delay < 1:
        raise ConfigError(f"delay must be at least 1 row, not {delay}; use 'full_sequence' to denoise all together.")
    if steps is not None and delay > steps:
        raise ConfigError(f"a delay of {delay} rows is longer than the {steps} steps of a frame; make it {steps}.")
