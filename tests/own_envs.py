"""A package of environments as their users write them, for tests: a dot that is steered over a field.

Importing it registers ``OwnDot-v0``. Nothing here knows of dreamenv.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

FIELD, SQUARE = 32, 8


class Dot(gym.Env[Any, Any]):
    """A square in a field of 32 by 32 pixels goes right by action 1, down by action 2; the right edge is the goal.

    Args:
        level: how far it goes per step, in pixels.
        shows: "picture", "grey", "flat", "dict", "two", "stack", "vector" or "symbols".
        actions: the space, None for three choices.
        lasts: steps until it truncates itself; None never does.
        render_mode: "rgb_array" or None.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": ["rgb_array"],
        "render_fps": 20,
        "score": "pixels to the right",
    }
    action_names = ("stay", "right", "down")

    def __init__(
        self, level: int = 4, shows: str = "picture", actions: Any = None, lasts: int | None = None,
        render_mode: str | None = None,
    ) -> None:  # fmt: skip
        self.level, self.shows, self.lasts, self.render_mode = level, shows, lasts, render_mode
        self.action_space = actions or spaces.Discrete(3)
        if actions is not None:
            self.action_names = ()
        picture, grey = spaces.Box(0, 255, (FIELD, FIELD, 3), np.uint8), spaces.Box(0, 255, (FIELD, FIELD, 1), np.uint8)
        self.observation_space = {
            "picture": picture,
            "grey": grey,
            "flat": spaces.Box(0, 255, (FIELD, FIELD), np.uint8),
            "dict": spaces.Dict({"eye": picture, "place": spaces.Box(0, 1, (2,), np.float32)}),
            "two": spaces.Dict({"left": picture, "right": picture}),
            "stack": spaces.Box(0, 255, (FIELD, FIELD, 4), np.uint8),
            "vector": spaces.Box(0, 1, (2,), np.float32),
            "symbols": spaces.Box(0, 255, (4, 4, 3), np.uint8),
        }[shows]
        self.taken: list[Any] = []
        self.canvas = np.zeros((FIELD, FIELD, 3), np.uint8)  # drawn into again and again

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.y, self.count = int(self.np_random.integers(8)), int(self.np_random.integers(FIELD - SQUARE)), 0
        return self._observe(), self._tell()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.taken.append(action)
        self.count += 1
        number = int(np.asarray(action if not isinstance(action, dict) else action["go"]).ravel()[0])
        self.x = min(self.x + self.level * (number == 1), FIELD - SQUARE)
        self.y = min(self.y + self.level * (number == 2), FIELD - SQUARE)
        done = self.x == FIELD - SQUARE
        return self._observe(), 1.0, done, self.lasts is not None and self.count >= self.lasts, self._tell()

    def render(self) -> Any:
        return self._draw() if self.render_mode == "rgb_array" else None

    def _tell(self) -> dict[str, Any]:
        return {"score": np.int64(self.x), "is_success": np.bool_(self.x == FIELD - SQUARE)}

    def _draw(self) -> np.ndarray:
        self.canvas[:] = (20, 40, 60)
        self.canvas[self.y : self.y + SQUARE, self.x : self.x + SQUARE] = (250, 200, 50)
        return self.canvas

    def _observe(self) -> Any:
        picture = self._draw()
        return {
            "picture": picture,
            "grey": picture[..., :1],
            "flat": picture[..., 0],
            "dict": {"eye": picture, "place": np.array([self.x, self.y], np.float32) / FIELD},
            "two": {"left": picture, "right": picture},
            "vector": np.array([self.x, self.y], np.float32) / FIELD,
        }.get(self.shows)


class Blind(gym.Env[Any, Any]):
    """Shows a number and draws nothing."""

    observation_space, action_space = spaces.Discrete(2), spaces.Discrete(2)


gym.register("OwnDot-v0", entry_point="own_envs:Dot", max_episode_steps=10)
gym.register("OwnMissing-v0", entry_point="no_such_package_at_all:Env")
