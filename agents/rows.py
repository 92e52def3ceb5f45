"""What our VecEnvs of stable-baselines3 have in common: rows that can be reset one by one, each with a seed.

stable-baselines3 knows same-step autoreset only: on the step that ends a row's episode the returned observation is the
next episode's first, ``info["terminal_observation"]`` the ended one's last, ``info["TimeLimit.truncated"]`` says
whether to bootstrap from it, and ``info["episode"]`` (return ``r``, length ``l``, seconds ``t``) feeds its log.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from dreamenv.agents.actions import PolicyActions
from dreamenv.checks import check_whole, to_array
from dreamenv.errors import ActionError, ClosedError, InputError, ResetNeededError, SeedError

__all__ = ["RowsVecEnv", "Stepped"]

_SEED_LIMIT = 2**31  # seeds derived here stay below it, so that every simulator takes them


@dataclass(frozen=True, slots=True)
class Stepped:
    """One step of all rows, before any autoreset. Rows that were not active may hold anything.

    Attributes:
        observations: (b, ...), of ended rows their last.
        rewards: (b,) float32.
        terminated, truncated: (b,) bool.
        infos: per row.
    """

    observations: NDArray[Any]
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    infos: Sequence[dict[str, Any]]


class RowsVecEnv(VecEnv):
    """A VecEnv over rows; subclasses give `reset_rows` and `step_rows`.

    Args:
        num_envs: rows, at least 1.
        observation_space: of one row.
        action_space: the environment's, of one row.

    Attributes:
        action_space: of a policy; see `dreamenv.agents.actions` for how it differs from the environment's.
        policy_actions: converts the one into the other.
    """

    def __init__(self, num_envs: int, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        num_envs = check_whole("num_envs", num_envs)
        self.policy_actions = PolicyActions(action_space)
        super().__init__(num_envs, observation_space, self.policy_actions.space)
        (metadata,) = self.get_attr("metadata", [0])
        if "render_fps" in metadata:
            self.metadata["render_fps"] = metadata["render_fps"]
        self._actions: NDArray[Any] | None = None
        self._random = np.random.default_rng()
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, np.int64)
        self._began = np.full(num_envs, time.perf_counter())
        self._everything = np.arange(num_envs)
        self._ready = self._closed = False

    @property
    def environment_actions(self) -> gym.Space[Any]:
        """The environment's own action space, of one row."""
        return self.policy_actions.layout.space

    @abstractmethod
    def reset_rows(
        self, rows: NDArray[np.int64], seeds: NDArray[np.int64], options: Sequence[dict[str, Any]] | None = None
    ) -> NDArray[Any]:
        """Start episodes in some rows, and keep what they say of their start in ``reset_infos``.

        Args:
            rows: (n,) which.
            seeds: (n,) one seed each; the same seed gives the same episode whatever the row and the other rows.
            options: (n,) options of `reset`, one dictionary each; None for none.

        Returns:
            (n, ...) first observations.
        """

    @abstractmethod
    def step_rows(self, actions: NDArray[Any], active: NDArray[np.bool_] | None = None) -> Stepped:
        """Step all rows, or only the active (b,) ones, without autoreset, under a policy's actions (b, ...)."""

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Fix all following episodes: row i's next one by ``seed + i``, later ones derived from ``seed``."""
        if seed is None:
            seed = int(np.random.default_rng().integers(_SEED_LIMIT))
        seed = check_whole("seed", seed, least=0, most=2**62, error=SeedError)
        self._random = np.random.default_rng(seed)
        self._seeds = [seed + row for row in range(self.num_envs)]
        return self._seeds

    def reset(self) -> NDArray[Any]:
        """Start an episode in every row, each by its seed and options if they were set; they are used once."""
        self._check_open()
        options = self._take_options()
        fresh = self._draw_seeds(self.num_envs)
        seeds = np.array([new if old is None else old for old, new in zip(self._seeds, fresh, strict=True)])
        observations = self.reset_rows(self._everything, seeds, options)
        self._begin_counting()
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        """Hand over one action per row."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step all rows; rows that end are reset."""
        self._check_open()
        if not self._ready or self._actions is None:
            raise ResetNeededError("step was called before reset; call reset() first.")
        stepped = self.step_rows(self._actions)
        done = stepped.terminated | stepped.truncated
        infos = self.count_episodes(stepped.rewards, stepped.terminated, stepped.truncated, stepped.infos)
        observations = stepped.observations
        if done.any():
            rows = np.flatnonzero(done)
            for row in rows.tolist():
                infos[row]["terminal_observation"] = observations[row].copy()
            observations[rows] = self.reset_rows(rows, self._draw_seeds(len(rows)))
        return observations, stepped.rewards, done, infos

    def count_episodes(
        self,
        rewards: NDArray[np.float32],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        infos: Sequence[dict[str, Any]],
    ) -> list[dict[str, Any]]:
        """Add up returns and lengths; return each row's infos with what stable-baselines3 reads of ended episodes."""
        self._returns += rewards
        self._lengths += 1
        limited = (truncated & ~terminated).tolist()
        told = [{**info, "TimeLimit.truncated": limit} for info, limit in zip(infos, limited, strict=True)]
        ended = np.flatnonzero(terminated | truncated)
        now = time.perf_counter()
        for row in ended.tolist():
            told[row]["episode"] = {
                "r": float(self._returns[row]),
                "l": int(self._lengths[row]),
                "t": round(now - self._began[row], 6),
            }
        self._returns[ended], self._lengths[ended], self._began[ended] = 0, 0, now
        return told

    def close(self) -> None:
        """Free what the rows hold."""
        self._closed = True

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute once per row asked for; spaces are those of one row here."""
        rows = self._get_indices(indices)
        if attr_name in ("action_space", "observation_space"):
            return [getattr(self, attr_name) for _ in rows]
        return [getattr(self._target(row), attr_name) for row in rows]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the rows asked for."""
        for row in self._get_indices(indices):
            setattr(self._target(row), attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the rows asked for."""
        return [
            getattr(self._target(row), method_name)(*method_args, **method_kwargs) for row in self._get_indices(indices)
        ]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Say for each row whether it is wrapped."""
        rows: Iterable[int] = self._get_indices(indices)
        return [self._is_wrapped(row, wrapper_class) for row in rows]

    @abstractmethod
    def _target(self, row: int) -> Any:
        """Return the object that holds a row's attributes."""

    def _is_wrapped(self, row: int, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]]) -> bool:
        del row, wrapper_class
        return False

    def _draw_seeds(self, count: int) -> NDArray[np.int64]:
        return self._random.integers(_SEED_LIMIT, size=count)

    def _take_options(self) -> list[dict[str, Any]]:
        """Return the options that were set, one dictionary per row; the next reset has none of them."""
        options = self._options
        self._reset_options()
        if not isinstance(options, list | tuple) or len(options) != self.num_envs:
            raise InputError(f"options must be one dictionary for all or {self.num_envs}, not {options!r}.")
        return list(options)

    def _begin_counting(self) -> None:
        """Count from here, after a reset of every row that used its seeds."""
        self._reset_seeds()
        self._returns[:], self._lengths[:], self._began[:] = 0, 0, time.perf_counter()
        self._ready = True

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this environment was closed; make a new one.")

    def _read_actions(self, actions: Any) -> NDArray[Any]:
        """Turn a policy's actions, one per row, into the arrays (b, *a) of `dreamenv.action_layout`."""
        array, wanted = (
            to_array("actions", actions, error=ActionError),
            (self.num_envs, *(self.action_space.shape or ())),
        )
        if array.shape != wanted:
            raise InputError(f"there must be one action per row, {wanted}, not an array of {array.shape}.")
        return self.policy_actions.to_arrays(array)
