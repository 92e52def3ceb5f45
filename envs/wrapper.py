"""Turn any Gymnasium environment with pictures into a real environment: frames, frame skip, score, provenance.

Conventions that an environment can use to say more, all optional:

- ``info["score"]``, a number: the score of the episode so far; ``metadata["score"]`` names it, with its unit.
- ``info["success"]`` or ``info["is_success"]``: whether the task is solved. What the last step says counts.
- ``info["caption"]``, a string: what is asked for or said as of this frame, recorded with the actions that follow; else
  the string ``observation["mission"]``, as MiniGrid has it.
- ``action_names``, an attribute: a name per discrete action; else ``get_action_meanings()``, as Atari has it.
- ``metadata["render_fps"]``: its steps per second of simulated time, in hertz; 10 without.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from numbers import Integral
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from dreamenv.action_layout import ActionLayout
from dreamenv.data.provenance import Provenance
from dreamenv.envs.pictures import SMALLEST, height_and_width, resize
from dreamenv.errors import ActionError, ConfigError, FrameError, ResetNeededError

__all__ = ["RENDER", "RealWrapper", "find_frames", "is_picture"]

RENDER = "render"
"""Frames are what ``render()`` returns."""

_FRAME_RATE = 10.0  # hertz, of an environment that does not say


def is_picture(space: gym.Space[Any] | None) -> bool:
    """Tell whether observations of a space are pictures: uint8, (h, w, 3), (h, w, 1) or (h, w), from 8 pixels on.

    Smaller ones are symbols, such as MiniGrid's (7, 7, 3): an object, a colour and a state per cell.
    """
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) not in (2, 3):
        return False
    return min(space.shape[:2]) >= SMALLEST and space.shape[2:] in ((), (1,), (3,))


def find_frames(space: gym.Space[Any], frames: str | None, name: str) -> str:
    """Return where the frames of an environment come from.

    Args:
        space: of its observations.
        frames: what was asked for: "render", an entry of a Dict, or None for an image among the observations, else
            for rendering.
        name: of the environment, for errors.

    Returns:
        "" for the observations themselves, an entry of a Dict, or "render".

    Raises:
        ConfigError: no image of that name, several to choose from, or one of other channels than 1 or 3.
    """
    entries = dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
    images = [key for key, entry in entries.items() if is_picture(entry)]
    if frames is not None and frames in entries and frames not in images:
        raise ConfigError(f"the entry {frames!r} of {name}'s observations is {entries[frames]}; {_WANTED}.")
    if frames == RENDER or frames in images:
        return str(frames)
    if frames is not None:
        known = ", ".join(repr(key) for key in (*filter(None, images), RENDER))
        raise ConfigError(f"frames must be one of {known} or None, not {frames!r}: {name} observes {space}.")
    if len(images) > 1:
        raise ConfigError(f"{name} observes several images; choose one: frames={' or '.join(map(repr, images))}.")
    odd = [
        entry
        for entry in entries.values()
        if entry.dtype == np.uint8 and len(entry.shape or ()) == 3 and max(entry.shape or ()) >= SMALLEST
    ]
    if not images and odd:
        raise ConfigError(
            f"{name} observes {odd[0]}; {_WANTED}. Leave out what stacks or transposes them (policies stack frames on "
            "their own), or take what it renders: frames='render'."
        )
    return images[0] if images else RENDER


_WANTED = "frames are uint8 (height, width, 3) or (height, width, 1), channels last, at least 8 by 8"


class RealWrapper(gym.Wrapper[NDArray[np.uint8], Any, Any, Any], RecordConstructorArgs):
    """An environment whose observations are frames (height, width, 3 or 1) uint8.

    Actions are the environment's own, and reach it as a recording holds them (a Box in float32). ``info`` is the
    environment's, with ``score`` a float and ``success`` a bool where it has them.

    Args:
        env: the environment; rendering "rgb_array" if frames come from there.
        environment_id: by which `make_real` makes it again.
        env_kwargs: its own arguments; JSON values.
        size: height and width of the frames, in pixels.
        frame_skip: its steps per action, over which rewards are summed.
        frames: where frames come from, see `find_frames`.
        max_episode_steps: its steps until the time limit, where the environment does not say; None for no limit.
        seed: of the first episode, where `reset` gets none.

    Raises:
        ConfigError: a setting is not valid, or the environment has no image or actions that have no layout.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        *,
        environment_id: str,
        env_kwargs: Mapping[str, Any] | None = None,
        size: int | tuple[int, int] = 64,
        frame_skip: int = 1,
        frames: str | None = None,
        max_episode_steps: int | None = None,
        seed: int | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(
            self, environment_id=environment_id, env_kwargs=env_kwargs, size=size, frame_skip=frame_skip, frames=frames,
            max_episode_steps=max_episode_steps, seed=seed,
        )  # fmt: skip
        super().__init__(env)
        for name, value in (("frame_skip", frame_skip), ("max_episode_steps", max_episode_steps)):
            if value is not None and not (isinstance(value, Integral) and value >= 1):
                raise ConfigError(f"{name} must be a whole number of at least 1 step, not {value!r}.")
        self.environment_id, self.env_kwargs = environment_id, _to_json(env_kwargs or {}, environment_id)
        self.height, self.width = height_and_width(size)
        self.frame_skip, self.max_native_steps = int(frame_skip), max_episode_steps or _time_limit(env)
        self._frames, self._frames_given = find_frames(env.observation_space, frames, environment_id), frames
        self._seed = seed
        self._layout = ActionLayout(env.action_space)
        channels = 3
        if self._frames != RENDER:
            pictures: Any = env.observation_space if not self._frames else env.observation_space[self._frames]  # type: ignore[index]
            channels = pictures.shape[2] if len(pictures.shape) == 3 else 1
        self.observation_space = spaces.Box(0, 255, (self.height, self.width, channels), np.uint8)
        self.metadata = {**env.metadata, "render_fps": self._native_rate / self.frame_skip}
        self._steps: int | None = None  # the environment's own, in this episode; None when a reset is needed

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start an episode."""
        seed, self._seed = self._seed if seed is None else seed, None
        self._steps = None
        observation, info = self.env.reset(seed=seed, options=options)
        self._steps = 0
        return self._frame(observation), self._read_info(info, observation)

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Repeat an action for ``frame_skip`` steps of the environment, or until the episode ends."""
        if self._steps is None:
            raise ResetNeededError("step was called before reset or after the end of an episode; call reset().")
        packed = self._layout.pack(action)
        if not self._layout.inside(packed[None])[0]:
            raise ActionError(f"action {action!r} is not in {self.action_space}.")
        steps, self._steps = self._steps, None  # if the environment fails, a reset is needed
        total = 0.0
        for _ in range(self.frame_skip):
            observation, reward, terminated, truncated, info = self.env.step(self._layout.unpack(packed))
            total, steps = total + float(reward), steps + 1
            truncated = bool(truncated) or (self.max_native_steps is not None and steps >= self.max_native_steps)
            if terminated or truncated:
                break
        else:
            self._steps = steps
        frame, told = self._frame(observation), self._read_info(info, observation)
        return frame, total, bool(terminated), truncated and not terminated, told

    def close(self) -> None:
        """Close the environment; a reset is needed before another step."""
        self._steps = None
        super().close()

    @cached_property
    def provenance(self) -> Provenance:
        """What a recording of this environment says about it."""
        limit, size = self.max_native_steps, (self.height, self.width)
        return Provenance(
            environment_id=self.environment_id,
            environment_kwargs=self._make_kwargs(),
            action_names=self._action_names(),
            frame_skip=self.frame_skip,
            frame_size=size,
            resize="area",
            frame_rate=self._native_rate / self.frame_skip,
            max_episode_steps=None if limit is None else -(-limit // self.frame_skip),
            score=str(self.env.metadata.get("score", "")),
        )

    @property
    def _native_rate(self) -> float:
        """The environment's own steps per second."""
        return float(self.env.metadata.get("render_fps") or _FRAME_RATE)

    def _make_kwargs(self) -> dict[str, Any]:
        """Return the arguments with which `make_real` makes this environment again."""
        size = self.height if self.height == self.width else (self.height, self.width)
        arguments: dict[str, Any] = {"size": size, "frame_skip": self.frame_skip}
        if self._frames_given is not None:
            arguments["frames"] = self._frames_given
        if self.max_native_steps is not None:
            arguments["max_episode_steps"] = self.max_native_steps
        return {**arguments, "env_kwargs": self.env_kwargs} if self.env_kwargs else arguments

    def _action_names(self) -> tuple[str, ...]:
        """Return the names of discrete actions, if the environment says them."""
        space, names = self.action_space, tuple[str, ...]()
        if self.has_wrapper_attr("action_names"):
            names = tuple(map(str, self.get_wrapper_attr("action_names")))
            if names and isinstance(space, spaces.Discrete) and len(names) != space.n:
                raise ConfigError(f"{self.environment_id} has {len(names)} action_names and {space.n} actions.")
        elif isinstance(space, spaces.Discrete) and self.has_wrapper_attr("get_action_meanings"):
            names = tuple(str(name).lower() for name in self.get_wrapper_attr("get_action_meanings")())
        return names

    def _frame(self, observation: Any) -> NDArray[np.uint8]:
        """Return the frame (height, width, c) of what the environment shows now, a copy."""
        if self._frames == RENDER:
            picture: Any = self.env.render()
        else:
            picture = observation[self._frames] if self._frames else observation
        picture = np.asarray(picture)
        if picture.ndim == 2:
            picture = picture[..., None]
        channels = self.observation_space.shape[2]  # type: ignore[index]
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != channels:
            raise FrameError(
                f"{self.environment_id} showed {picture.shape} {picture.dtype} where uint8 (height, width, {channels}) "
                "was due; let it return what its observation space says, or render 'rgb_array'."
            )
        frame = resize(np.ascontiguousarray(picture), self.height, self.width)
        return np.array(frame)  # a copy: the environment may draw into its picture again

    def _read_info(self, info: dict[str, Any], observation: Any) -> dict[str, Any]:
        info = dict(info)
        mission = observation.get("mission") if isinstance(observation, Mapping) else None
        if isinstance(mission, str):
            info.setdefault("caption", mission)
        success = info.get("success", info.get("is_success"))
        if success is not None:
            info["success"] = bool(success)
        if info.get("score") is not None:
            try:
                info["score"] = float(info["score"])
            except (TypeError, ValueError):
                raise ConfigError(
                    f"info['score'] of {self.environment_id} must be a number, not {info['score']!r}; rename it."
                ) from None
        return info


def _time_limit(env: gym.Env[Any, Any]) -> int | None:
    """Return the steps until an environment's own time limit, as far as it says."""
    for name in ("_max_episode_steps", "max_episode_steps", "max_steps"):  # the first is of gymnasium's TimeLimit
        limit = env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None
        if isinstance(limit, int | np.integer) and limit >= 1:
            return int(limit)
    return None


def _to_json(arguments: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return arguments as JSON values.

    Raises:
        ConfigError: one is no JSON value.
    """
    values = {
        key: value.tolist() if isinstance(value, np.ndarray | np.generic) else value for key, value in arguments.items()
    }
    for key, value in values.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            raise ConfigError(
                f"the argument {key} of {name} is {value!r}, which a recording cannot name; give numbers, words, lists "
                f"or dictionaries of them, or fix it in a function: make_real(lambda: MyEnv({key}=...))."
            ) from None
    return values
