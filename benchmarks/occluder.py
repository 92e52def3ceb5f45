"""A toy: an object goes behind a screen, and only where it comes out tells what it did there.

Half of the objects cross, the others turn round half-way; before the screen they look and move alike. The recording
shows them without the screen, so that a world learns both ways; whoever measures hides the frames behind it.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

__all__ = ["APPROACH", "HIDDEN", "Occluder"]

APPROACH, HIDDEN = 5, 8
"""Steps before the screen, and behind it; the object turns, or not, in the middle of these."""

_SIDE, _OBJECT, _SPEED = 32, 5, 1.5  # pixels, pixels per step
_BACK, _FRONT = (30, 36, 60), (250, 200, 80)


class Occluder(gym.Env[NDArray[np.uint8], np.int64]):
    """An object moves to the right, in a row and at a height of its own, and crosses or turns.

    Actions move it up or down by a pixel. Rewards are 0; 24 steps truncate.
    """

    metadata: dict[str, Any] = {"render_fps": 10}  # noqa: RUF012 - as gymnasium declares it
    action_names = ("noop", "up", "down")
    max_episode_steps = 24

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (_SIDE, _SIDE, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Place the object at the left edge, and decide in secret what it will do."""
        super().reset(seed=seed)
        self.turns, self.time = bool(self.np_random.integers(2)), 0
        self.row = int(self.np_random.integers(4, _SIDE - _OBJECT - 4))
        return self._picture(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Move on."""
        self.time += 1
        self.row = min(max(self.row + (0, -1, 1)[int(action)], 0), _SIDE - _OBJECT)
        return self._picture(), 0.0, False, self.time >= self.max_episode_steps, {}

    def _picture(self) -> NDArray[np.uint8]:
        turn = APPROACH + HIDDEN // 2
        way = self.time if not self.turns or self.time <= turn else 2 * turn - self.time
        column = 2 + round(_SPEED * way)
        picture = np.full((_SIDE, _SIDE, 3), _BACK, np.uint8)
        picture[self.row : self.row + _OBJECT, max(column, 0) : max(column + _OBJECT, 0)] = _FRONT
        return picture
