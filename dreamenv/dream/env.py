"""One dream, as an ordinary Gymnasium environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from dreamenv.checks import to_array
from dreamenv.dream.actions import one_row
from dreamenv.dream.config import DreamConfig
from dreamenv.dream.options import read_seed
from dreamenv.dream.vector_env import DreamVectorEnv
from dreamenv.errors import ConfigError, FrameError
from dreamenv.world import World
from dreamenv.world_model import State

__all__ = ["DreamEnv"]


class DreamEnv(gym.Env[Any, Any]):
    """One row of `DreamVectorEnv`.

    Args:
        world: a `World`, or where to load one from; None for the world that ships with dreamenv.
        render_mode: "rgb_array" or "human".
        **settings: arguments of `DreamVectorEnv` (``config``, ``observation``, ...), except ``num_envs`` and
            ``autoreset_mode``, and fields of `DreamConfig`.
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"]}  # noqa: RUF012 - as gymnasium declares it

    def __init__(
        self, world: World | str | Path | None = None, *, render_mode: str | None = None, **settings: Any
    ) -> None:
        taken = {"num_envs", "autoreset_mode"} & set(settings)
        if taken:
            raise ConfigError(f"a single environment has no {taken.pop()}; use DreamVectorEnv.")
        self._batch = DreamVectorEnv(
            world, 1, render_mode=render_mode, autoreset_mode=AutoresetMode.DISABLED, **settings
        )
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": self._batch.metadata["render_fps"]}
        self.observation_space = self._batch.single_observation_space
        self.action_space = self._batch.single_action_space

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled; a copy that was never seeded dreams the same dreams."""
        return {**vars(self), "_np_random": self.np_random}

    @property
    def config(self) -> DreamConfig:
        """How it is dreamt."""
        return self._batch.config

    @property
    def world(self) -> World:
        """The world of this dream."""
        return self._batch.world

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a new dream; see `DreamVectorEnv.reset`."""
        seed = None if seed is None else read_seed(seed)
        first = int(self.np_random.integers(2**63)) if seed is None and not self._batch.seeded else seed
        observations, info = self._batch.reset(seed=first, options=options)
        super().reset(seed=seed)
        return observations[0], _single(info)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Dream one step.

        Raises:
            ActionError: not in the action space.
            ResetNeededError: before the first reset, or after the end.
            ClosedError: after `close`.
        """
        observations, rewards, terminated, truncated, info = self._batch.step(one_row(action))
        if self._batch.output == "torch":
            return observations[0], rewards[0], terminated[0], truncated[0], _single(info)
        return observations[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), _single(info)

    def render(self) -> NDArray[np.uint8] | None:
        """Return a picture (h, w, 3), or show it in the window."""
        pictures = self._batch.render()
        return None if pictures is None else pictures[0]

    def close(self) -> None:
        """Close the window."""
        self._batch.close()

    def prompt(self, prompt: str | None) -> None:
        """Ask for something else from the next step on; None for nothing. See `DreamVectorEnv.prompt`."""
        self._batch.prompt(prompt)

    @property
    def gaze(self) -> NDArray[np.float32]:
        """Where the next frame is looked at, (2,) row and column in [0, 1]; see `DreamVectorEnv.gaze`."""
        gaze: NDArray[np.float32] = self._batch.gaze[0]
        return gaze

    def look(self, gaze: Any) -> None:
        """Look there, (row, column) in [0, 1], from the next frame on; None leaves it to the world.

        Raises:
            GazeError: outside the frame, no two numbers, or this world sees all of a frame alike.
        """
        self._batch.look(None if gaze is None else [gaze])

    def get_state(self) -> State:
        """Return everything the dream's future depends on; see `DreamVectorEnv.get_state`."""
        return self._batch.get_state()

    def set_state(self, state: State) -> Any:
        """Continue from a state of one row; returns the observation."""
        return self._batch.set_state(state)[0]

    def revise(self, frames: Any, mask: Any) -> Any:
        """Let real frames (l, h, w, c) of the last l steps, where mask (l,) is True, revise what the dream remembers.

        Returns the observation; see `DreamVectorEnv.revise`.
        """
        pictures, given = to_array("frames", frames, error=FrameError), to_array("mask", mask)
        return self._batch.revise(pictures[None], given[None])[0]

    def branch(self, n: int = 1, *, seed: int | None = None) -> State:
        """Return a state of n copies of this dream; see `DreamVectorEnv.branch`."""
        return self._batch.branch(0, n, seed=seed)


def _single(info: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value[0].item() for key, value in info.items() if not key.startswith("_")}
