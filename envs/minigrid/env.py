"""MiniGrid tasks as environments: the agent's partial view of 7 by 7 cells, rotated so that it faces upwards.

This is the view that MiniGrid's own observations encode: the full grid would hide nothing and leave nothing to explore.
Cells behind walls are black.
"""

from __future__ import annotations

import os
from typing import Any

from dreamenv.envs.base import FrameSkipEnv, SimStep
from dreamenv.envs.minigrid.tasks import MINIGRID_TASKS, MinigridTask
from dreamenv.errors import UnknownNameError

__all__ = ["MinigridEnv"]

_CELLS = 7  # of the view's width and height
_TILE = 32  # pixels per cell, as in MiniGrid's own frames; shrunk afterwards, so that no line falls between pixels


class MinigridEnv(FrameSkipEnv):
    """One MiniGrid task.

    ``info`` also has ``position`` [column, row], ``direction`` (0 east, 1 south, 2 west, 3 north) and ``caption``, the
    mission, which is recorded.

    Args:
        task: short name, see `dreamenv.envs.minigrid.tasks.MINIGRID_TASKS`.
        settings: see `FrameSkipEnv`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - gymnasium's
    task: MinigridTask

    def __init__(self, task: str, **settings: Any) -> None:
        if task not in MINIGRID_TASKS:
            raise UnknownNameError("MiniGrid task", task, MINIGRID_TASKS)
        super().__init__(MINIGRID_TASKS[task], **settings)
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame, which MiniGrid imports, prints to stdout
        from minigrid import envs

        self._tile = max(_TILE, -(-max(self.height, self.width) // _CELLS))
        self._simulator = getattr(envs, self.task.simulator)(**self.task.arguments)

    def _reset_sim(self, seed: int) -> SimStep:
        self._simulator.reset(seed=seed)
        return self._sim_step(0.0, terminated=False)

    def _step_once(self, action: Any) -> SimStep:
        _, reward, terminated, _, _ = self._simulator.step(action)
        return self._sim_step(float(reward), terminated=bool(terminated))

    def _sim_step(self, reward: float, *, terminated: bool) -> SimStep:
        return SimStep(
            screen=self._simulator.get_pov_render(self._tile),
            reward=reward,
            terminated=terminated,
            score=float(terminated and reward > 0),
            info={
                "position": [int(place) for place in self._simulator.agent_pos],
                "direction": int(self._simulator.agent_dir),
                "caption": str(self._simulator.mission),
            },
        )
