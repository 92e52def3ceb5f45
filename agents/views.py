"""What a policy wants to see, found from its observation space, and how to show it.

A policy that declares an observation space is shown what fits it: the world's latents, or frames as they are, stacked,
grey or smaller, channels first or last (stable-baselines3 puts the channels of images first on its own).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from dreamenv.agents.observations import ObservationConfig
from dreamenv.capabilities import SupportsEmbed
from dreamenv.data.spaces import show_space
from dreamenv.dream.latents import latent_space
from dreamenv.errors import ConfigError, PolicyError
from dreamenv.world import World

__all__ = ["View", "check_view", "find_view", "read_view"]

FrameShape = tuple[int, int, int]


@dataclass(frozen=True)
class View:
    """What a policy sees.

    Attributes:
        config: the observation.
        channels_last: frames are (h, w, c) instead of (c, h, w).
    """

    config: ObservationConfig
    channels_last: bool = False

    def arrange(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Return observations (b, ...) with their axes in the policy's order."""
        return np.moveaxis(observations, 1, -1) if self.channels_last else observations

    def arrange_space(self, space: gym.Space[Any]) -> gym.Space[Any]:
        """Return the space of what `arrange` gives, for one row."""
        if not self.channels_last or not isinstance(space, gym.spaces.Box):
            return space
        low, high = (np.moveaxis(bound, 0, -1) for bound in (space.low, space.high))
        return gym.spaces.Box(low, high, dtype=space.dtype.type)


def read_view(observation: ObservationConfig | Literal["frame", "latent"]) -> View:
    """Return what was asked for by name; "frame" is (h, w, c) as `DreamVectorEnv` shows it.

    Raises:
        ConfigError: there is no such observation.
    """
    if isinstance(observation, ObservationConfig):
        return View(observation)
    if observation == "frame":
        return View(ObservationConfig(kind="frame", stack=1, grey=False), channels_last=True)
    if observation == "latent":
        return View(ObservationConfig(kind="latent"))
    raise ConfigError(f"observation must be 'frame', 'latent' or an ObservationConfig, not {observation!r}.")


def find_view(space: gym.Space[Any], frame_shape: FrameShape, world: World | None) -> View:
    """Return what fits a policy's observation space.

    A stack of grey frames and one of colour frames can have the same shape; colour is taken then.

    Args:
        space: what the policy sees.
        frame_shape: (h, w, c) of the environment's frames.
        world: whose latents there are; None without latents.

    Raises:
        PolicyError: nothing fits.
    """
    latents = latent_space(world) if world is not None and isinstance(world.model, SupportsEmbed) else None
    if latents is not None and _same(space, latents):
        return View(ObservationConfig(kind="latent"))
    shape = space.shape or ()
    if len(shape) == 3:
        for channels_last in (False, True):
            sizes = (shape[2], *shape[:2]) if channels_last else shape
            config = _fit_frames(sizes, frame_shape)
            if config is not None:
                view = View(config, channels_last)
                if _same(space, view.arrange_space(config.frame_space(frame_shape))):
                    return view
    raise _misfit(space, _describe(frame_shape, latents, world))


def check_view(space: gym.Space[Any], shown: gym.Space[Any]) -> None:
    """Raise PolicyError unless a policy's observation space is that of what it is shown."""
    if not _same(space, shown):
        raise _misfit(space, f"is shown {show_space(shown)}")


def _fit_frames(sizes: tuple[int, ...], frame_shape: FrameShape) -> ObservationConfig | None:
    """Return how frames become (channels, h, w) of these sizes, None if they cannot."""
    planes, height, width = sizes
    frame_height, frame_width, channels = frame_shape
    if frame_height % height or frame_width != width * (frame_height // height) or height < 8:
        return None
    size = None if height == frame_height else height
    if planes % channels == 0:
        return ObservationConfig(kind="frame", stack=planes // channels, grey=False, size=size)
    return ObservationConfig(kind="frame", stack=planes, grey=True, size=size)


def _same(one: gym.Space[Any], other: gym.Space[Any]) -> bool:
    """Say whether two Boxes are equal; infinite bounds are as good as the largest numbers."""
    if not isinstance(one, gym.spaces.Box) or not isinstance(other, gym.spaces.Box):
        return False
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind != "f":
        return one == other
    pairs = ((one.low, other.low), (one.high, other.high))
    return all(np.array_equal(np.nan_to_num(left), np.nan_to_num(right)) for left, right in pairs)


def _describe(frame_shape: FrameShape, latents: gym.Space[Any] | None, world: World | None) -> str:
    found = f"could be shown frames {gym.spaces.Box(0, 255, frame_shape, np.uint8)}"
    if latents is not None:
        return f"{found} or the world's latents {show_space(latents)}"
    return found + ("; for latents, give the world whose filter makes them, world=World.load(...)" if not world else "")


def _misfit(space: gym.Space[Any], shown: str) -> PolicyError:
    return PolicyError(
        f"the policy's observation space is {show_space(space)}, and here it {shown}. Train it on what there is, "
        "DreamVecEnv(world, observation=...), or say what to show it: evaluate(..., observation=...)."
    )
