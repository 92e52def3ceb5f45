"""What a policy sees, made in one place for dreams and real environments alike.

``latent``: the world's embedding, (d,) float32, as it comes. ``frame``: the last ``stack`` frames, oldest first, grey
or in colour, shrunk by area averaging, as (stack * channels, size, size) uint8. At an episode's start the first frame
fills the whole stack.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from dreamenv.checks import check_choice, check_flag, check_whole
from dreamenv.errors import ConfigError, FrameError

__all__ = ["FrameStack", "ObservationConfig"]

# ITU-R BT.601 luma in 1/256, so that grey needs only integers.
_LUMA = np.array([77, 150, 29], np.uint32)

_MOST_FRAMES = 1024


@dataclass(frozen=True, kw_only=True)
class ObservationConfig:
    """What a policy sees.

    Attributes:
        kind: "latent" (the world's embedding; fast, no decoder) or "frame" (pixels).
        stack: frames seen at once, at least 1; only for "frame".
        grey: one luma channel instead of red, green, blue; only for "frame".
        size: height of what the policy sees, in pixels; by what it divides the frames' height, their width is divided
            too; None for the frames' own size; only for "frame".
        reconstructed: show real frames as the world reconstructs them, without the details that its dreams lack: to a
            policy that learned from dreamt frames, others are out of distribution. Dreamt frames are taken as they are;
            only for "frame", and in the real environment it needs the world.
    """

    kind: Literal["latent", "frame"] = "latent"
    stack: int = 4
    grey: bool = True
    size: int | None = None
    reconstructed: bool = False

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("latent", "frame"))
        settle = functools.partial(object.__setattr__, self)  # numpy's numbers become Python's, which JSON knows
        for name in ("grey", "reconstructed"):
            settle(name, check_flag(name, getattr(self, name)))
        settle("stack", check_whole("stack", self.stack, most=_MOST_FRAMES))
        if self.size is not None:
            settle("size", check_whole("size", self.size, least=8, also=", or None"))
        if self.reconstructed and self.kind != "frame":
            raise ConfigError("reconstructed is of frames; latents are the world's own already.")

    def frame_space(self, frame_shape: tuple[int, int, int]) -> gym.spaces.Box:
        """Return the space of one observation of kind "frame".

        Args:
            frame_shape: (h, w, c) of the frames it is made of.

        Raises:
            ConfigError: a size that does not divide the frames', or not both of their sides.
        """
        height, width, channels = frame_shape
        size = self.size or height
        if height % size or width % (height // size):
            raise ConfigError(
                f"frames of {height}x{width} pixels cannot be shrunk to a height of {size}: it must divide theirs, and "
                "by what it does, their width must be divided too."
            )
        channels = 1 if self.grey else channels
        return gym.spaces.Box(0, 255, (self.stack * channels, size, width // (height // size)), np.uint8)


class FrameStack:
    """The last frames of b rows.

    Args:
        config: of kind "frame".
        num_envs: b, rows.
        frame_shape: (h, w, c) of incoming frames.
    """

    def __init__(self, config: ObservationConfig, num_envs: int, frame_shape: tuple[int, int, int]) -> None:
        self.config = config
        self.space = config.frame_space(frame_shape)
        self.frame_shape = frame_shape
        self._channels = self.space.shape[0] // config.stack
        self._stack = np.zeros((num_envs, *self.space.shape), np.uint8)

    def reset(self, rows: NDArray[np.int64], frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Fill rows' stacks with their first frames (len(rows), h, w, c); return those rows' observations."""
        self._stack[rows] = np.tile(self._prepare(frames), (1, self.config.stack, 1, 1))
        return self._stack[rows]

    def push(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Add one frame (b, h, w, c) to every row; return all observations, a fresh array."""
        kept = self._stack[:, self._channels :]
        self._stack = np.concatenate((kept, self._prepare(frames)), axis=1)
        return self._stack.copy()

    def _prepare(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn frames (n, h, w, c) into (n, c', h', w')."""
        if frames.shape[1:] != self.frame_shape or frames.dtype != np.uint8:
            raise FrameError(f"frames must be (n, {self.frame_shape}) uint8, not {frames.shape} {frames.dtype}.")
        factor = self.frame_shape[0] // self.space.shape[1]
        if self.config.grey and self.frame_shape[2] == 3:
            # A matrix product has no integer fast path, three scaled planes do.
            red, green, blue = (frames[..., i].astype(np.uint32) * _LUMA[i] for i in range(3))
            planes: NDArray[Any] = ((red + green + blue + 128) >> 8)[:, None]  # n 1 h w
        else:
            planes = rearrange(frames, "n h w c -> n c h w")
        if factor == 1:
            same: NDArray[np.uint8] = planes.astype(np.uint8)
            return same
        blocks = rearrange(planes, "n c (h i) (w j) -> n c h i w j", i=factor, j=factor)
        total: NDArray[Any] = blocks.astype(np.uint32).sum(axis=(3, 5))
        mean: NDArray[np.uint8] = ((total + factor**2 // 2) // factor**2).astype(np.uint8)
        return mean
