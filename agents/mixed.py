"""Several VecEnvs as one: dream rows and real rows in one batch, as in Dyna (Sutton 1991)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from dreamenv.agents.rows import RowsVecEnv, Stepped
from dreamenv.errors import ConfigError, ResetNeededError

__all__ = ["MixedVecEnv"]


class MixedVecEnv(RowsVecEnv):
    """The rows of several environments one after another.

    Args:
        parts: environments with equal observation and action spaces.
    """

    def __init__(self, parts: Sequence[RowsVecEnv]) -> None:
        self.parts = list(parts)
        if not self.parts:
            raise ConfigError("a mixed environment needs at least one part, not none.")
        first = self.parts[0]
        for part in self.parts[1:]:
            if (
                part.observation_space != first.observation_space
                or part.environment_actions != first.environment_actions
            ):
                raise ConfigError(
                    f"the parts must agree: {first.observation_space} and {first.environment_actions} against "
                    f"{part.observation_space} and {part.environment_actions}."
                )
        bounds = np.cumsum([0, *(part.num_envs for part in self.parts)])
        self._slices = [slice(int(low), int(high)) for low, high in itertools.pairwise(bounds)]
        super().__init__(int(bounds[-1]), first.observation_space, first.environment_actions)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed every part, each with seeds of its own."""
        super().seed(seed)
        for part, rows in zip(self.parts, self._slices, strict=True):
            part.seed(self._seeds[rows][0])
        return self._seeds

    def reset(self) -> NDArray[Any]:
        """Start an episode in every row."""
        self._check_open()
        options = self._take_options()
        for part, rows in zip(self.parts, self._slices, strict=True):
            part.set_options(options[rows])
        observations = np.concatenate([part.reset() for part in self.parts])
        self._begin_counting()
        self._gather_reset_infos()
        return observations

    def reset_rows(
        self, rows: NDArray[np.int64], seeds: NDArray[np.int64], options: Sequence[dict[str, Any]] | None = None
    ) -> NDArray[Any]:
        """Start episodes in some rows."""
        observations = np.zeros((len(rows), *(self.observation_space.shape or ())), self.observation_space.dtype)
        for part, span in zip(self.parts, self._slices, strict=True):
            mine = (rows >= span.start) & (rows < span.stop)
            if mine.any():
                own = None if options is None else [options[place] for place in np.flatnonzero(mine).tolist()]
                observations[mine] = part.reset_rows(rows[mine] - span.start, seeds[mine], own)
        self._gather_reset_infos()
        return observations

    def step_rows(self, actions: NDArray[Any], active: NDArray[np.bool_] | None = None) -> Stepped:
        """Step every part."""
        steps = [
            part.step_rows(actions[rows], None if active is None else active[rows])
            for part, rows in zip(self.parts, self._slices, strict=True)
        ]
        return Stepped(
            np.concatenate([step.observations for step in steps]),
            np.concatenate([step.rewards for step in steps]),
            np.concatenate([step.terminated for step in steps]),
            np.concatenate([step.truncated for step in steps]),
            [info for step in steps for info in step.infos],
        )

    def step_wait(self) -> VecEnvStepReturn:
        """Step every part."""
        self._check_open()
        if not self._ready or self._actions is None:
            raise ResetNeededError("step was called before reset; call reset() first.")
        for part, rows in zip(self.parts, self._slices, strict=True):
            part.step_async(self._actions[rows])
        results = [part.step_wait() for part in self.parts]
        self._gather_reset_infos()
        observations, rewards, dones = (np.concatenate([result[i] for result in results]) for i in range(3))
        return observations, rewards, dones, [info for result in results for info in result[3]]

    def close(self) -> None:
        """Close every part."""
        super().close()
        for part in self.parts:
            part.close()

    def _gather_reset_infos(self) -> None:
        self.reset_infos = [info for part in self.parts for info in part.reset_infos]

    def _target(self, row: int) -> Any:
        part, own = self._locate(row)
        return part._target(own)

    def _is_wrapped(self, row: int, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]]) -> bool:
        part, own = self._locate(row)
        return part._is_wrapped(own, wrapper_class)

    def _locate(self, row: int) -> tuple[RowsVecEnv, int]:
        """Return the part that a row is of, and its number there."""
        place = next(i for i, rows in enumerate(self._slices) if rows.start <= row < rows.stop)
        return self.parts[place], row - self._slices[place].start
