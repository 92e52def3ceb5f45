"""Minecraft tasks as gymnasium environments, played by MineRL in an interpreter of its own.

The game has 20 ticks a second; an agent step is 4 ticks, a fifth of a second, by default. MineRL's pictures (64x64 from
0.4, 360x640 from 1.0, RGB, top row first) are shrunk like everybody's.
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

_REWARD_MEASURES = {"logs": "logs", "distance": "metres"}
_INFO = {"logs": "logs_gained", "metres": "metres_walked"}


class MinerlEnv(RealEnv):
    """One Minecraft task. A native step is a tick of 1/20 s.

    The worker starts on the first reset (with ``native_actions`` when it is made, since MineRL must say which they
    are), and with it the game, which takes minutes the first time. When anything fails, `step` and `reset` raise an
    error, everything that was started is ended, and the next `reset` starts anew.

    ``info`` also has, where the game tells it, ``compass_angle`` (degrees; 0: the goal lies straight ahead) and
    ``inventory`` (number by item); where a reward or score is computed, ``logs_gained`` and ``metres_walked`` in this
    episode; and ``stand_in``: whether what answers is dreamenv's stand-in for Minecraft and not the game.

    Args:
        task: short name, see `dreamenv.envs.minerl.tasks.MINERL_TASKS`.
        minerl_python: MineRL's interpreter; None for the variable DREAMENV_MINERL_PYTHON's.
        port: of a game that runs on this machine already and that nobody else plays in; None starts one.
        reset_timeout: seconds to wait for a reset, which may build a world and start Java.
        step_timeout: seconds to wait for a step.
        settings: of every real environment, see `RealEnv`. ``native_actions`` takes MineRL's own dictionaries; an
            entry that MineRL calls an enumeration is the number of its value here. The camera then turns in the first
            tick of an agent step too.
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
            raise ConfigError(f"time-outs must be positive, not {reset_timeout} and {step_timeout} s.")
        missing = find_minerl(minerl_python, task)
        if missing is not None:
            raise UnavailableError(task, missing.what, missing.remedy)
        self.task = MINERL_TASKS[task]
        self._python = str(minerl_interpreter(minerl_python))
        self._port = port
        self._seconds = {"reset": reset_timeout, "step": step_timeout}
        self._worker: MinerlProcess | None = None
        self._measures = self._wanted(settings.get("reward") or self.task.rewards[0])
        self._totals = dict.fromkeys(self._measures, 0.0)
        self._score, self._stand_in = 0.0, False
        super().__init__(self.task, **settings)

    def native_action_space(self) -> gym.Space[Any]:
        """Return MineRL's own action space; starts the worker, not the game."""
        described = self._ready_worker().hello["action_space"]
        return gym.spaces.Dict({key: _space(part) for key, part in described.items()})

    def close(self) -> None:
        """End the worker, and the game if it started one."""
        self._running = False
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _wanted(self, reward: str) -> tuple[str, ...]:
        """What the worker must measure; nothing for a native reward, so that it works with every client."""
        if reward not in _REWARD_MEASURES:
            return ()
        return tuple(sorted({_REWARD_MEASURES[reward], self.task.score_metric} & set(_INFO)))

    def _ready_worker(self) -> MinerlProcess:
        """Return the worker; start one if there is none, or if the last one has failed."""
        if self._worker is None or not self._worker.alive:
            self.close()
            self._worker = MinerlProcess(
                self._python, task=self.task.name, env_id=self.task.env_id, port=self._port, measures=self._measures
            )
        return self._worker

    def _reset_sim(self, seed: int) -> SimStep:
        worker = self._ready_worker()
        facts = worker.ask("reset", seconds=self._seconds["reset"], seed=seed)["facts"]
        self._stand_in = bool(facts["stand_in"])
        self._totals, self._score = dict.fromkeys(self._measures, 0.0), 0.0
        return SimStep(screen=worker.frame, info=self._sim_info(facts))

    def _step_sim(self, action: Any, native_steps: int) -> SimStep:
        worker = self._worker
        assert worker is not None
        told = worker.ask("step", seconds=self._seconds["step"], action=_plain(action), ticks=native_steps)
        for measure in self._measures:
            self._totals[measure] += told[measure]
        if self.task.score_metric == "goal":
            self._score = max(self._score, float(told["peak"] > GOAL_REWARD / 2))
        elif self.task.score_metric == "return":
            self._score += told["reward"]
        else:
            self._score = self._totals.get(self.task.score_metric, 0.0)
        computed = _REWARD_MEASURES.get(self.reward)
        return SimStep(
            screen=worker.frame,
            reward=told["reward"] if computed is None else told[computed],
            terminated=told["done"],
            native_steps=told["ticks"],
            score=self._score,
            info=self._sim_info(told["facts"]),
        )

    def _sim_info(self, told: dict[str, Any]) -> dict[str, Any]:
        facts: dict[str, Any] = {key: told[key] for key in ("compass_angle", "inventory") if key in told}
        measured = {_INFO[measure]: total for measure, total in self._totals.items()}
        return {**facts, **measured, "stand_in": self._stand_in}


def _space(part: dict[str, Any]) -> gym.Space[Any]:
    """Turn a worker's description of one action into a space."""
    match part["type"]:
        case "Enum":
            return gym.spaces.Discrete(len(part["values"]))
        case "Discrete":
            return gym.spaces.Discrete(part["n"])
        case _:
            return gym.spaces.Box(part["low"], part["high"], tuple(part["shape"]), np.float32)


def _plain(action: dict[str, Any]) -> dict[str, Any]:
    """Turn a native action into JSON values."""
    return {key: value.tolist() if hasattr(value, "tolist") else value for key, value in action.items()}
