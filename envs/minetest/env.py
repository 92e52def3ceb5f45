"""Minetest tasks as gymnasium environments.

Every environment has an engine of its own, which is started by the first reset and kept over the episodes. It works
outside this process, so several can be stepped in threads. An engine that dies or hangs gives a `WorkerError`; the next
reset starts another one.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from dreamenv.envs.base import RealEnv, SimStep
from dreamenv.envs.minetest.engine import Engine
from dreamenv.envs.minetest.tasks import ARRIVAL_REWARD, MINETEST_TASKS, MinetestTask
from dreamenv.errors import UnknownNameError, WorkerError

__all__ = ["MinetestEnv"]

_SMALLEST = 64  # pixels: the engine's picture; smaller frames are shrunk from it
_EPISODES = 200  # per engine, which remembers a little of every area


class MinetestEnv(RealEnv):
    """One Minetest task.

    ``info`` also has ``position`` (x, y, z in nodes, a node is a metre), ``yaw`` and ``pitch`` (degrees; left and down
    are positive), and what the task tells, such as ``distance`` (metres to the beacon).

    Args:
        task: short name, see `dreamenv.envs.minetest.tasks.MINETEST_TASKS`, where each task's reward is described.
        settings: of every real environment, see `RealEnv`; a native step is 0.1 s of the world's time.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - gymnasium's
    task: MinetestTask

    def __init__(self, task: str, **settings: Any) -> None:
        if task not in MINETEST_TASKS:
            raise UnknownNameError("Minetest task", task, MINETEST_TASKS)
        super().__init__(MINETEST_TASKS[task], **settings)
        self._engine: Engine | None = None
        self._episodes, self._score = 0, 0.0

    def native_action_space(self) -> gym.Space[Any]:
        """Return the space of (forward, jump, turn, look, dig, place); see `dreamenv.envs.minetest.tasks`."""
        low, high = np.array([-1, 0, -180, -90, 0, 0], np.float32), np.array([1, 1, 180, 90, 1, 1], np.float32)
        return gym.spaces.Box(low, high)

    @property
    def engine(self) -> Engine | None:
        """The engine that runs now, for those who look at its processes."""
        return self._engine

    def close(self) -> None:
        """Stop the engine and remove everything of it."""
        self._running = False
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _reset_sim(self, seed: int) -> SimStep:
        if self._episodes >= _EPISODES:
            self.close()
        if self._engine is None:
            self._engine = Engine(self.task.script, max(self.height, self.width, _SMALLEST))
            self._episodes = 0
        try:
            answer, picture = self._engine.reset(seed)
        except WorkerError:
            self.close()
            raise
        self._episodes += 1
        self._score = 0.0
        return SimStep(screen=picture, info=_info(answer))

    def _step_sim(self, action: Any, native_steps: int) -> SimStep:
        assert self._engine is not None
        try:
            answer, picture = self._engine.act([float(value) for value in action], native_steps)
        except WorkerError:
            self.close()
            raise
        events = float(answer["events"])
        self._score += events
        reward = float(answer["progress"]) + ARRIVAL_REWARD * events if self.reward == "progress" else events
        return SimStep(
            screen=picture,
            reward=reward,
            terminated=bool(answer["over"]),
            native_steps=int(answer["passed"]),
            score=self._score,
            info=_info(answer),
        )


def _info(answer: dict[str, Any]) -> dict[str, Any]:
    place = {"position": tuple(answer["position"]), "yaw": answer["yaw"], "pitch": answer["pitch"]}
    return {**place, **{name: float(value) for name, value in (answer["facts"] or {}).items()}}
