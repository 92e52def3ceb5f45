"""Minecraft tasks as Gymnasium environments, with MineRL in an interpreter of its own.

The game has 20 ticks per second; an agent step is 4 ticks, a fifth of a second, by default. MineRL's native frames are
64x64 (0.4) or 360x640 (1.0).
"""

from __future__ import annotations

import os
from typing import Any

import gymnasium as gym
import numpy as np

from dreamenv.envs.base import RealEnv, SimStep
from dreamenv.envs.minerl.interpreter import find_minerl, minerl_interpreter
from dreamenv.envs.minerl.process import MinerlProcess
from dreamenv.envs.minerl.tasks import GOAL_REWARD, MINERL_TASKS, MinerlTask
from dreamenv.errors import ConfigError, UnavailableError, UnknownNameError

__all__ = ["MinerlEnv"]

_MEASURE_OF_REWARD = {"logs": "logs", "distance": "metres"}
_INFO_KEYS = {"logs": "logs_gained", "metres": "metres_walked"}


class MinerlEnv(RealEnv):
    """A Minecraft task. A native step is a tick of 1/20 s.

    The worker process is started by the first reset (with ``native_actions`` by the constructor, which needs MineRL's
    action space). It starts the game, which takes minutes the first time. When anything fails, `step` and `reset` raise
    an error and end all processes they started; the next `reset` starts them again.

    ``info`` also has, where the mission provides them, ``compass_angle`` (degrees; 0: the goal is straight ahead) and
    ``inventory`` (number by item); where the reward or the score is computed, ``logs_gained`` and ``metres_walked`` in
    this episode; and ``fake_malmo``: whether `dreamenv.envs.minerl.fake_malmo` runs in place of the game.

    Args:
        task: short name, see `dreamenv.envs.minerl.tasks.MINERL_TASKS`.
        minerl_python: MineRL's interpreter; None for that of the variable DREAMENV_MINERL_PYTHON.
        port: of a running game on this machine that no other environment uses; None starts a game.
        reset_timeout: seconds to wait for a reset, which may start Java and generate a world.
        step_timeout: seconds to wait for a step.
        settings: see `RealEnv`. With ``native_actions``, actions are MineRL's dictionaries, in which an Enum is the
            index of its value. With a frame skip, the camera turns in the first tick of an agent step only.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 - gymnasium's
    task: MinerlTask

    def __init__(
        self,
        task: str,
        *,
        minerl_python: str | os.PathLike[str] | None = None,
        port: int | None = None,
        reset_timeout: float = 600.0,
        step_timeout: float = 60.0,
        **settings: Any,
    ) -> None:
        if task not in MINERL_TASKS:
            raise UnknownNameError("MineRL task", task, MINERL_TASKS)
        if port is not None and not 1 <= port <= 65535:
            raise ConfigError(f"port must be from 1 to 65535, not {port}.")
        if not (reset_timeout > 0 and step_timeout > 0):
            raise ConfigError(
                f"time limits must be positive, not reset_timeout={reset_timeout}, step_timeout={step_timeout}."
            )
        missing = find_minerl(minerl_python, task)
        if missing is not None:
            raise UnavailableError(task, missing.what, missing.remedy)
        self.task = MINERL_TASKS[task]
        self._python = str(minerl_interpreter(minerl_python))
        self._port = port
        self._timeouts = {"reset": reset_timeout, "step": step_timeout}
        self._worker: MinerlProcess | None = None
        self._measures = self._required_measures(settings.get("reward") or self.task.rewards[0])
        self._totals = dict.fromkeys(self._measures, 0.0)
        self._score, self._fake_malmo = 0.0, False
        super().__init__(self.task, **settings)

    def native_action_space(self) -> gym.Space[Any]:
        """Return MineRL's own action space; starts the worker, but not the game."""
        parts = self._ready_worker().hello["action_space"]
        return gym.spaces.Dict({key: _space(part) for key, part in parts.items()})

    def close(self) -> None:
        """End the worker, and the game if it started one."""
        self._running = False
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _required_measures(self, reward: str) -> tuple[str, ...]:
        """Return what the worker must measure: nothing for a native reward, which works with every client."""
        if reward not in _MEASURE_OF_REWARD:
            return ()
        return tuple(sorted({_MEASURE_OF_REWARD[reward], self.task.score_metric} & set(_INFO_KEYS)))

    def _ready_worker(self) -> MinerlProcess:
        """Return the worker; start one if none is running."""
        if self._worker is None or not self._worker.alive:
            self.close()
            self._worker = MinerlProcess(
                self._python, task=self.task.name, env_id=self.task.env_id, port=self._port, measures=self._measures
            )
        return self._worker

    def _reset_sim(self, seed: int) -> SimStep:
        worker = self._ready_worker()
        info = worker.request("reset", seconds=self._timeouts["reset"], seed=seed)["info"]
        self._fake_malmo = bool(info["fake_malmo"])
        self._totals, self._score = dict.fromkeys(self._measures, 0.0), 0.0
        return SimStep(screen=worker.frame, info=self._sim_info(info))

    def _step_sim(self, action: Any, native_steps: int) -> SimStep:
        worker = self._worker
        assert worker is not None
        answer = worker.request("step", seconds=self._timeouts["step"], action=_plain(action), ticks=native_steps)
        for measure in self._measures:
            self._totals[measure] += answer[measure]
        if self.task.score_metric == "goal":
            self._score = max(self._score, float(answer["max_reward"] > GOAL_REWARD / 2))
        elif self.task.score_metric == "return":
            self._score += answer["reward"]
        else:
            self._score = self._totals.get(self.task.score_metric, 0.0)
        computed = _MEASURE_OF_REWARD.get(self.reward)
        return SimStep(
            screen=worker.frame,
            reward=answer["reward"] if computed is None else answer[computed],
            terminated=answer["done"],
            native_steps=answer["ticks"],
            score=self._score,
            info=self._sim_info(answer["info"]),
        )

    def _sim_info(self, worker_info: dict[str, Any]) -> dict[str, Any]:
        kept: dict[str, Any] = {key: worker_info[key] for key in ("compass_angle", "inventory") if key in worker_info}
        measured = {_INFO_KEYS[measure]: total for measure, total in self._totals.items()}
        return {**kept, **measured, "fake_malmo": self._fake_malmo}


def _space(part: dict[str, Any]) -> gym.Space[Any]:
    """Return the space that the worker described."""
    match part["type"]:
        case "Enum":
            return gym.spaces.Discrete(len(part["values"]))
        case "Discrete":
            return gym.spaces.Discrete(part["n"])
        case _:
            return gym.spaces.Box(part["low"], part["high"], tuple(part["shape"]), np.float32)


def _plain(action: dict[str, Any]) -> dict[str, Any]:
    """Convert a native action to JSON values."""
    return {key: value.tolist() if hasattr(value, "tolist") else value for key, value in action.items()}
