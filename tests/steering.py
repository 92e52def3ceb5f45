"""A tiny real environment that is steered by actions of any space, for tests: a bright square on a dark floor.

Whatever the space, an action becomes one step (dx, dy) of the square, each in -3 ... 3 pixels; the reward is dx / 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from dreamenv.data.provenance import Provenance

SIZE, SQUARE, REACH = 16, 5, 3

Step = tuple[float, float]

SPACES: dict[str, tuple[gym.Space[Any], Callable[[Any], Step]]] = {
    "Discrete": (spaces.Discrete(3, start=-1), lambda a: (REACH * float(a), 0.0)),
    "Box": (spaces.Box(-2.0, 2.0, (2,), np.float32), lambda a: (1.5 * a[0], 1.5 * a[1])),
    "a Box of whole numbers": (spaces.Box(-3, 3, (1, 2), np.int32), lambda a: (float(a[0, 0]), float(a[0, 1]))),
    "MultiDiscrete": (spaces.MultiDiscrete([3, 7], start=[-1, -3]), lambda a: (3.0 * a[0], float(a[1]))),
    "MultiBinary": (spaces.MultiBinary(2), lambda a: (3.0 if a[0] else -3.0, 3.0 if a[1] else 0.0)),
    "Dict of choices": (
        spaces.Dict({"x": spaces.Discrete(3), "a": spaces.Dict({"y": spaces.MultiBinary(1)})}),
        lambda a: (3.0 * a["x"] - 3.0, 3.0 * a["a"]["y"][0]),
    ),
    "Dict": (
        spaces.Dict(
            {
                "walk": spaces.Box(-1.0, 1.0, (1,), np.float64),
                "jump": spaces.Discrete(2, start=4),
                "keys": spaces.Dict({"up": spaces.MultiDiscrete([2, 2]), "idle": spaces.MultiBinary(1)}),
            }
        ),
        lambda a: (REACH * float(a["walk"][0]), 3.0 * (a["jump"] - 4) - 3.0 * a["keys"]["up"][0]),
    ),
}


class Steered(gym.Env[Any, Any]):
    """16x16 RGB, ``SPACES[kind]``, 12 steps; refuses what is not exactly an action of its space."""

    def __init__(self, kind: str, max_episode_steps: int = 12) -> None:
        self.kind, self.max_episode_steps = kind, max_episode_steps
        space, self._meaning = SPACES[kind]
        self.action_space = space
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)

    @property
    def provenance(self) -> Provenance:
        return Provenance(
            environment_id="dreamenv/Steered-v0",
            environment_kwargs={"kind": self.kind},
            frame_size=SIZE,
            max_episode_steps=self.max_episode_steps,
            score="pixels to the right",
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.y = self.np_random.integers(SIZE - SQUARE, size=2).astype(float)
        self.moved, self.steps = 0.0, 0
        return self._frame(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        dx, dy = self._meaning(action)
        self.x = float(np.clip(self.x + dx, 0, SIZE - SQUARE))
        self.y = float(np.clip(self.y + dy, 0, SIZE - SQUARE))
        self.moved, self.steps = self.moved + dx, self.steps + 1
        return self._frame(), dx / REACH, False, self.steps >= self.max_episode_steps, {"score": self.moved}

    def _frame(self) -> np.ndarray:
        frame = np.zeros((SIZE, SIZE, 3), np.uint8)
        x, y = round(self.x), round(self.y)
        frame[y : y + SQUARE, x : x + SQUARE] = (255, 220, 120)
        return frame
