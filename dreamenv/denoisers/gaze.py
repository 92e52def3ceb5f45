"""Where a foveated denoiser looks while no one tells it: a rule that turns what has happened into the next gaze.

A gaze is (row, column) in [0, 1] of the frame. Whoever dreams may set it, and then it stays; see
`dreamenv.capabilities.SupportsGaze`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dreamenv.denoisers.base import Uniform
from dreamenv.nn.fovea import Fovea
from dreamenv.parts import Part

__all__ = ["GazeConfig", "HeldGaze", "MotionGaze", "UncertaintyGaze"]

_ANYWHERE = 0.25  # share of the windows in training in which a gaze that follows a rule is anywhere, as agents may look


@dataclass(frozen=True, kw_only=True)
class GazeConfig(Part, ABC):
    """How the next gaze is found.

    Attributes:
        watches: what is to be kept of frames for it: the "change" between the last two, the "surprise" of the last
            sampled one, or nothing.
    """

    watches: ClassVar[str | None] = None

    @abstractmethod
    def follow(self, fovea: Fovea, gaze: Tensor, maps: Tensor | None, known: Tensor) -> Tensor:
        """Return the gaze after each of f frames, (b, f, 2).

        Args:
            fovea: its tables.
            gaze: (b, 2), at the first of them.
            maps: (b, f, h, w) at least 0, what it watches; None if there is nothing to be seen.
            known: (b, f) bool, frames that have one before them.
        """

    def draw(self, fovea: Fovea, frames: Tensor, uniform: Uniform) -> Tensor:
        """Draw gazes (b, s, 2) at which the frames (b, s, c, h, w) of a window are learned.

        In every other window they jump from frame to frame, and stay in the others.

        Args:
            fovea: its tables.
            frames: clean ones, in order.
            uniform: of any shape, samples in [0, 1).
        """
        b, s = frames.shape[:2]
        places = uniform(b, s, 2)
        return torch.where(uniform(b, 1, 1) < 0.5, places, places[:, :1])


@dataclass(frozen=True, kw_only=True)
class HeldGaze(GazeConfig, kind="held_gaze"):
    """The gaze stays where it was set; at first on the middle of the frame."""

    def follow(self, fovea: Fovea, gaze: Tensor, maps: Tensor | None, known: Tensor) -> Tensor:
        """See `GazeConfig`."""
        return gaze[:, None].expand(-1, known.shape[1], -1)


@dataclass(frozen=True, kw_only=True)
class MotionGaze(GazeConfig, kind="motion_gaze"):
    """The gaze goes where the last two frames differ most; to the middle if they do not, or there is only one."""

    watches: ClassVar[str | None] = "change"

    def follow(self, fovea: Fovea, gaze: Tensor, maps: Tensor | None, known: Tensor) -> Tensor:
        """See `GazeConfig`."""
        assert maps is not None
        return fovea.best_gaze(maps * known[..., None, None])

    def draw(self, fovea: Fovea, frames: Tensor, uniform: Uniform) -> Tensor:
        """See `GazeConfig`; a few windows are seen as if an agent looked."""
        anywhere = super().draw(fovea, frames, uniform)
        change = (frames[:, 1:-1] - frames[:, :-2]).square().mean(2)
        followed = torch.cat((torch.full_like(anywhere[:, :2], 0.5), fovea.best_gaze(change)), dim=1)
        return torch.where(uniform(len(frames), 1, 1) < _ANYWHERE, anywhere, followed[:, : frames.shape[1]])


@dataclass(frozen=True, kw_only=True)
class UncertaintyGaze(GazeConfig, kind="uncertainty_gaze"):
    """The gaze goes where the model was least certain of the last frame it sampled; observed frames leave it.

    What it first predicts of a frame, from pure noise, is about the mean of what may come. The squared distance of the
    sampled frame from it is an estimate of the variance of what may come, place by place.
    """

    watches: ClassVar[str | None] = "surprise"

    def follow(self, fovea: Fovea, gaze: Tensor, maps: Tensor | None, known: Tensor) -> Tensor:
        """See `GazeConfig`."""
        return gaze[:, None].expand(-1, known.shape[1], -1) if maps is None else fovea.best_gaze(maps)
