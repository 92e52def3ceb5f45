"""What a denoising world needs of the network that draws its frames, and how noise level and actions are put to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from dreamenv.nn.unet import FourierFeatures

__all__ = ["Condition", "FrameNetwork", "Remembered"]

Remembered = dict[str, Tensor]
"""Entries (b, ...) of the state in which a network keeps past frames."""


class FrameNetwork(nn.Module, ABC):
    """Predicts noisy frames, given a memory of those before. Frames are in [-1, 1], actions are vectors (..., a).

    The action at a frame is the one that led to it: 0 for the first, which none led to.
    """

    @abstractmethod
    def begin(self, like: Tensor) -> Remembered:
        """Return an empty memory for rows of frames (b, c, h, w)."""

    @abstractmethod
    def remember(self, past: Mapping[str, Tensor], frames: Tensor, actions: Tensor) -> Remembered:
        """Take clean frames (b, f, c, h, w) into the memory, with the actions (b, f, a) that led to them."""

    @abstractmethod
    def predict(self, past: Mapping[str, Tensor], noisy: Tensor, level: Tensor, actions: Tensor) -> Tensor:
        """Say the target of the next frames, (b, f, c, h, w), from their noise levels (b, f) and actions (b, f, a)."""

    @abstractmethod
    def predict_all(self, clean: Tensor, noisy: Tensor, level: Tensor, actions: Tensor) -> Tensor:
        """Say the target of every frame of a sequence (b, s, c, h, w) at once, to learn from.

        What is said of the first frame is not used.
        """


class Condition(nn.Module):
    """Noise level and actions as one vector.

    Args:
        actions: width of what is known of the actions.
        size: of the vector, an even number.
    """

    def __init__(self, actions: int, size: int) -> None:
        super().__init__()
        self.level = FourierFeatures(size)
        self.action = nn.Linear(actions, size)
        self.mix = nn.Sequential(nn.Linear(size, size), nn.SiLU(), nn.Linear(size, size))

    def forward(self, time: Tensor, actions: Tensor) -> Tensor:
        """Times (...) and actions (..., a) -> (..., size)."""
        levels = self.level(time.flatten()).unflatten(0, time.shape)
        mixed: Tensor = self.mix(levels + self.action(actions))
        return mixed
