"""MiniWorld tasks as environments: the agent's view, rendered at MiniWorld's own 4:3 without a display.

A simulator is made at the first reset and kept until the environment is closed. All rendering happens in one thread
(see `dreamenv.envs.miniworld.opengl`), so environments may be used from any thread.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from dreamenv.envs.base import FrameSkipEnv, SimStep
from dreamenv.envs.miniworld.opengl import call_in_render_thread, submit_to_render_thread
from dreamenv.envs.miniworld.simulator import close_simulator, make_simulator
from dreamenv.envs.miniworld.tasks import MINIWORLD_TASKS, MiniworldTask
from dreamenv.errors import UnknownNameError

__all__ = ["MiniworldEnv"]

_NATIVE_HEIGHT = 60  # pixels


class MiniworldEnv(FrameSkipEnv):
    """One MiniWorld task.

    ``info`` also has ``position`` [x, z] in metres and ``direction`` in degrees, counter-clockwise.

    Args:
        task: short name, see `dreamenv.envs.miniworld.tasks.MINIWORLD_TASKS`.
        settings: see `FrameSkipEnv`.
    """

    task: MiniworldTask

    def __init__(self, task: str, **settings: Any) -> None:
        if task not in MINIWORLD_TASKS:
            raise UnknownNameError("MiniWorld task", task, MINIWORLD_TASKS)
        super().__init__(MINIWORLD_TASKS[task], **settings)
        self._simulator: Any = None

    def close(self) -> None:
        """Free the simulator; the next reset makes another."""
        self._running = False
        simulator, self._simulator = self._simulator, None
        if simulator is not None:
            self._finalizer.detach()
            call_in_render_thread(close_simulator, simulator)

    def _reset_sim(self, seed: int) -> SimStep:
        return call_in_render_thread(self._reset_in_thread, seed)

    def _step_sim(self, action: Any, native_steps: int) -> SimStep:
        return call_in_render_thread(super()._step_sim, action, native_steps)

    def _reset_in_thread(self, seed: int) -> SimStep:
        if self._simulator is None:
            height = max(self.height, self.width * 3 // 4, _NATIVE_HEIGHT)
            self._simulator = make_simulator(self.task.name, self.task.world, round(height * 4 / 3), height)
            self._finalizer = weakref.finalize(self, submit_to_render_thread, close_simulator, self._simulator)
            self._finalizer.atexit = False  # at exit everything is freed, and the thread is gone
        screen, _ = self._simulator.reset(seed=seed)
        return self._sim_step(screen, 0.0, terminated=False)

    def _step_once(self, action: Any) -> SimStep:
        screen, reward, terminated, _, _ = self._simulator.step(action)
        return self._sim_step(screen, float(reward), terminated=bool(terminated))

    def _sim_step(self, screen: Any, reward: float, *, terminated: bool) -> SimStep:
        agent = self._simulator.agent
        return SimStep(
            screen=screen,
            reward=reward,
            terminated=terminated,
            score=float(terminated),  # these tasks terminate at the box only
            info={
                "position": [float(agent.pos[0]), float(agent.pos[2])],
                "direction": float(np.degrees(agent.dir) % 360),
            },
        )
