"""Any policy as one that plays the rows of an environment.

A policy is a `SavedPolicy` or another `Actor`; a predictor, which has stable-baselines3's ``predict``; or a function
from observations to actions.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dreamenv.agents.actors import Actor
from dreamenv.agents.rows import RowsVecEnv
from dreamenv.agents.saved_policy import PolicyState
from dreamenv.agents.views import View
from dreamenv.errors import ActionError, PolicyError

__all__ = ["BatchPolicy", "Policy", "Predictor", "as_batch_policy", "check_actions", "observation_normalizer"]


@runtime_checkable
class Predictor(Protocol):
    """What models and policies of stable-baselines3 and sb3-contrib have in common."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Return actions (b, ...) and the next state, of which the rows with ``episode_start`` (b,) start again."""
        ...


Policy: TypeAlias = Actor | Predictor | Callable[[NDArray[Any]], Any]


class BatchPolicy(ABC):
    """Plays b rows, each an episode of its own."""

    @abstractmethod
    def reset(self, rows: NDArray[np.int64], seeds: NDArray[np.int64]) -> None:
        """Start episodes in rows (n,), with a seed (n,) each; the first time in all."""

    @abstractmethod
    def act(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Return actions (b, ...) of the space that policies act in."""


def as_batch_policy(policy: Policy, env: RowsVecEnv, view: View, *, deterministic: bool) -> BatchPolicy:
    """Return the policy as one that plays an environment's rows.

    Raises:
        PolicyError: it is no policy.
    """
    if isinstance(policy, Actor):
        return _ActorRows(policy, view, deterministic=deterministic)
    if isinstance(policy, Predictor):
        _check_call(policy.predict, None, state=None, episode_start=None, deterministic=False)
        return _PredictorRows(policy, env, view, deterministic=deterministic)
    if callable(policy):
        _check_call(policy, None)
        return _FunctionRows(policy, env, view)
    raise PolicyError(
        f"{policy!r} is no policy: pass a SavedPolicy, a model with stable-baselines3's predict(observation, state, "
        "episode_start, deterministic), or a function of observations (b, ...) that returns actions (b, ...)."
    )


def _check_call(function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    """Raise PolicyError unless a function can be called with these arguments."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of something that is not written in Python
        return
    try:
        signature.bind(*arguments, **named)
    except TypeError as error:
        wanted = ", ".join(["observations", *named])
        raise PolicyError(
            f"a policy is called with ({wanted}), and this one cannot be ({error}): it takes {signature}."
        ) from None


def check_actions(policy: Policy, env: RowsVecEnv) -> None:
    """Raise PolicyError if a predictor's action space is not the environment's.

    The environment's own space will do as well as that of `PolicyActions`: stable-baselines3 counts from 0 in both.
    """
    space = getattr(policy, "action_space", None)
    if space is None or space == env.action_space or space == env.environment_actions:
        return
    raise PolicyError(
        f"the policy's action space is {space}, and the environment takes {env.environment_actions} "
        f"(to stable-baselines3 {env.action_space}). Evaluate it in an environment with the actions it was trained on."
    )


class _ActorRows(BatchPolicy):
    def __init__(self, actor: Actor, view: View, *, deterministic: bool) -> None:
        self._actor, self._view, self._deterministic = actor, view, deterministic
        self._state: PolicyState | None = None

    def reset(self, rows: NDArray[np.int64], seeds: NDArray[np.int64]) -> None:
        fresh = self._actor.start(seeds)
        if self._state is None:
            self._state = fresh
            return
        self._state = self._state.clone()
        self._state[rows] = fresh

    def act(self, observations: NDArray[Any]) -> NDArray[Any]:
        assert self._state is not None
        seen = self._view.arrange(observations)
        actions, self._state = self._actor.act(seen, self._state, deterministic=self._deterministic)
        return actions


class _PredictorRows(BatchPolicy):
    """Observations are normalized as in training, where the model is still attached to its VecNormalize."""

    def __init__(self, predictor: Predictor, env: RowsVecEnv, view: View, *, deterministic: bool) -> None:
        self._predictor, self._env, self._view, self._deterministic = predictor, env, view, deterministic
        self._episode_start = np.ones(env.num_envs, np.bool_)
        self._state: Any = None

    def reset(self, rows: NDArray[np.int64], seeds: NDArray[np.int64]) -> None:
        del seeds
        self._episode_start[rows] = True

    def act(self, observations: NDArray[Any]) -> NDArray[Any]:
        seen = self._view.arrange(observations)
        normalizer = observation_normalizer(self._predictor)
        if normalizer is not None:
            seen = normalizer.normalize_obs(seen)
        answer = self._predictor.predict(
            seen, state=self._state, episode_start=self._episode_start.copy(), deterministic=self._deterministic
        )
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise PolicyError(f"predict must return (actions, state) as stable-baselines3's does, not {answer!r}.")
        actions, self._state = np.asarray(answer[0]), answer[1]
        self._episode_start[:] = False
        wanted = (self._env.num_envs, *(self._env.action_space.shape or ()))
        return actions.reshape(wanted) if actions.size == np.prod(wanted) else actions


class _FunctionRows(BatchPolicy):
    def __init__(self, function: Callable[[NDArray[Any]], Any], env: RowsVecEnv, view: View) -> None:
        self._function, self._env, self._view = function, env, view

    def reset(self, rows: NDArray[np.int64], seeds: NDArray[np.int64]) -> None:
        """Do nothing: a function has no memory."""

    def act(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Take the environment's own actions, batched as gymnasium does."""
        policy_actions, rows = self._env.policy_actions, self._env.num_envs
        answer = self._function(self._view.arrange(observations))
        answer = answer if isinstance(answer, Mapping) else np.asarray(answer)
        arrays = policy_actions.layout.pack_rows(answer)
        if len(arrays) != rows:
            raise ActionError(f"the policy returned {len(arrays)} actions for {rows} observations; give one for each.")
        good = policy_actions.layout.inside(arrays)
        if not good.all():
            wrong = arrays[int(np.argmin(good))]
            raise ActionError(f"the policy returned the action {wrong}, which is not in {policy_actions.layout.space}.")
        return policy_actions.from_arrays(arrays)


def observation_normalizer(policy: Any) -> Any:
    """Return the VecNormalize by which a model's observations are normalized; None without one."""
    find = getattr(policy, "get_vec_normalize_env", None)
    normalizer = find() if callable(find) else None
    return normalizer if normalizer is not None and normalizer.norm_obs else None
