"""What a denoising world needs of the network that draws its frames, and how noise level and actions are put to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dreamenv.diffusion.processes import NoiseProcess
from dreamenv.diffusion.targets import Target
from dreamenv.nn.unet import FourierFeatures

__all__ = ["Asked", "Condition", "FrameNetwork", "Remembered"]

Remembered = dict[str, Tensor]
"""Entries (b, ...) of the state in which a network keeps past frames."""


@dataclass(frozen=True)
class Asked:
    """What a network is asked of noisy frames.

    Attributes:
        noisy: (b, f, c, h, w).
        level: (b, f), their noise levels.
        actions: (b, f, a), vectors of the actions that led to each; 0 for a first frame, which none led to.
        step: (b, f) in (0, 1], how far along the way from noise each shall be brought at once; None where the network
            is not told (see `dreamenv.diffusion.shortcut`).
        gap: (b, f), how many steps each lies after the last frame that may be looked at; None for one step.
        alone: (b,) bool, rows that shall be drawn as if there were no past; None for none. Only for `predict_all`: else
            an empty memory does it.
        groups: (f,) int64, never falling, which frames are drawn together and see each other both ways; None for none.
    """

    noisy: Tensor
    level: Tensor
    actions: Tensor
    step: Tensor | None = None
    gap: Tensor | None = None
    alone: Tensor | None = None
    groups: Tensor | None = None


class FrameNetwork(nn.Module, ABC):
    """Predicts noisy frames, given a memory of those before. Frames are in [-1, 1], actions are vectors (..., a).

    Frames may as well be latents of any (c, h, w), with a spread of about 1.

    Attributes:
        process: of the noise.
        target: what it says of noisy frames.
    """

    process: NoiseProcess
    target: Target

    @abstractmethod
    def begin(self, like: Tensor) -> Remembered:
        """Return an empty memory for rows of frames (b, c, h, w)."""

    @abstractmethod
    def remember(
        self, past: Mapping[str, Tensor], frames: Tensor, actions: Tensor, groups: Tensor | None = None
    ) -> Remembered:
        """Take clean frames (b, f, c, h, w) into the memory, with the actions (b, f, a) that led to them.

        ``groups`` (f,) int64 says which of them were drawn together; None: they were observed, one after the other.
        """

    @abstractmethod
    def predict(self, past: Mapping[str, Tensor], asked: Asked) -> Tensor:
        """Say the target of the next frames, (b, f, c, h, w), or with the variance of a step (b, f, 2 c, h, w)."""

    @abstractmethod
    def predict_all(self, clean: Tensor, asked: Asked) -> Tensor:
        """Say the target of every frame of a sequence (b, s, c, h, w) at once, to learn from.

        What is said of the first frame is not used.
        """


class Condition(nn.Module):
    """Noise level, actions, and what else a network is told of a frame, as one vector.

    Args:
        actions: width of what is known of the actions; 0 if they come in otherwise.
        size: of the vector, an even number.
        steps: tell how far a frame is to be brought at once.
        gaps: tell how far ahead it lies.
    """

    def __init__(self, actions: int, size: int, *, steps: bool = False, gaps: bool = False) -> None:
        super().__init__()
        self.level = FourierFeatures(size)
        self.action = nn.Linear(actions, size) if actions else None
        self.step = FourierFeatures(size) if steps else None
        self.gap = FourierFeatures(size) if gaps else None
        self.mix = nn.Sequential(nn.Linear(size, size), nn.SiLU(), nn.Linear(size, size))

    def forward(self, time: Tensor, actions: Tensor, step: Tensor | None = None, gap: Tensor | None = None) -> Tensor:
        """Times (...) and actions (..., a) -> (..., size). Steps and gaps are 1 where they are not given."""
        total = _features(self.level, time)
        if self.action is not None:
            total = total + self.action(actions)
        if self.step is not None:  # in doublings, as the sizes are
            total = total + _features(self.step, _log2(step, time) / 4)
        if self.gap is not None:
            total = total + _features(self.gap, _log2(gap, time) / 4)
        mixed: Tensor = self.mix(total)
        return mixed


def _log2(number: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if number is None else number.to(like.dtype).log2()


def _features(features: FourierFeatures, numbers: Tensor) -> Tensor:
    made: Tensor = features(numbers.flatten())
    return made.reshape(*numbers.shape, -1)
