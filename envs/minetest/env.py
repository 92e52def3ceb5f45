"""Minetest tasks as Gymnasium environments.

Every environment has an engine of its own, which the first reset starts and later episodes reuse. It runs in other
processes, so several environments can be stepped in threads. If an engine dies or hangs, a `WorkerError` is raised; the
next reset starts another one.
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

_SMALLEST = 64  # pixels of the engine's frames; smaller ones are shrunk from it
_EPISODES = 200  # per engine, whose memory grows with every area


class MinetestEnv(RealEnv):
    """A Minetest task.

    ``info`` also has ``position`` (x, y, z in nodes, a node is a metre), ``yaw`` and ``pitch`` (degrees; left and down
    are positive), and what the task adds, such as ``distance`` (metres to the beacon).

    Args:
        task: short name, see `dreamenv.envs.minetest.tasks.MINETEST_TASKS`, where each task's reward is described.
        settings: see `RealEnv`; a native step is 0.1 s of simulated time.
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
        """The running engine, to inspect its processes; None if there is none."""
        return self._engine

    def close(self) -> None:
        """End the engine and remove its files."""
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
            answer, frame = self._engine.reset(seed)
        except WorkerError:
            self.close()
            raise
        self._episodes += 1
        self._score = 0.0
        return SimStep(screen=frame, info=_info(answer))

    def _step_sim(self, action: Any, native_steps: int) -> SimStep:
        assert self._engine is not None
        try:
            answer, frame = self._engine.step([float(value) for value in action], native_steps)
        except WorkerError:
            self.close()
            raise
        events = float(answer["events"])
        self._score += events
        reward = float(answer["progress"]) + ARRIVAL_REWARD * events if self.reward == "progress" else events
        return SimStep(
            screen=frame,
            reward=reward,
            terminated=bool(answer["terminated"]),
            native_steps=int(answer["passed"]),
            score=self._score,
            info=_info(answer),
        )


def _info(answer: dict[str, Any]) -> dict[str, Any]:
    pose = {"position": tuple(answer["position"]), "yaw": answer["yaw"], "pitch": answer["pitch"]}
    return {**pose, **{name: float(value) for name, value in (answer["info"] or {}).items()}}
