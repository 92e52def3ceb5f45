"""MiniWorld tasks as environments: what the agent sees, at MiniWorld's own 4:3, drawn without a display.

A simulator is made with the first episode, and serves the environment until it is closed. Everything that draws happens
in one thread (see `dreamenv.envs.miniworld.opengl`), so environments may be used from any thread.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from dreamenv.envs.face import Outcome, TickedEnv
from dreamenv.envs.miniworld.opengl import in_drawing_thread, send_to_drawing_thread
from dreamenv.envs.miniworld.simulator import close_simulator, make_simulator
from dreamenv.envs.miniworld.tasks import MINIWORLD_TASKS, MiniworldTask
from dreamenv.errors import UnknownNameError

__all__ = ["MiniworldEnv"]

_NATIVE_HEIGHT = 60  # pixels


class MiniworldEnv(TickedEnv):
    """One MiniWorld task.

    ``info`` also has ``position`` [x, z] in metres and ``direction`` in degrees, counter-clockwise.

    Args:
        task: short name, see `dreamenv.envs.miniworld.tasks.MINIWORLD_TASKS`.
        settings: of every real environment, see `TickedEnv`.
    """

    task: MiniworldTask

    def __init__(self, task: str, **settings: Any) -> None:
        if task not in MINIWORLD_TASKS:
            raise UnknownNameError("MiniWorld task", task, MINIWORLD_TASKS)
        super().__init__(MINIWORLD_TASKS[task], **settings)
        self._simulator: Any = None

    def close(self) -> None:
        """Free the simulator; a reset makes another."""
        self._running = False
        simulator, self._simulator = self._simulator, None
        if simulator is not None:
            self._finalizer.detach()
            in_drawing_thread(close_simulator, simulator)

    def _begin(self, seed: int) -> Outcome:
        return in_drawing_thread(self._begin_there, seed)

    def _act(self, action: Any, native_steps: int) -> Outcome:
        return in_drawing_thread(super()._act, action, native_steps)

    def _begin_there(self, seed: int) -> Outcome:
        if self._simulator is None:
            height = max(self.height, self.width * 3 // 4, _NATIVE_HEIGHT)
            self._simulator = make_simulator(self.task.name, self.task.world, round(height * 4 / 3), height)
            self._finalizer = weakref.finalize(self, send_to_drawing_thread, close_simulator, self._simulator)
            self._finalizer.atexit = False  # the process's end frees everything, and the thread is gone by then
        screen, _ = self._simulator.reset(seed=seed)
        return self._outcome(screen, 0.0, terminated=False)

    def _tick(self, action: Any) -> Outcome:
        screen, reward, terminated, _, _ = self._simulator.step(action)
        return self._outcome(screen, float(reward), terminated=bool(terminated))

    def _outcome(self, screen: Any, reward: float, *, terminated: bool) -> Outcome:
        agent = self._simulator.agent
        return Outcome(
            screen=screen,
            reward=reward,
            terminated=terminated,
            score=float(terminated),  # these tasks end by reaching the box alone
            facts={
                "position": [float(agent.pos[0]), float(agent.pos[2])],
                "direction": float(np.degrees(agent.dir) % 360),
            },
        )
