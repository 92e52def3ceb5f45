"""The policies that act while a real environment is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from dreamenv.checks import check_number
from dreamenv.data.spaces import space_from_json, space_to_json
from dreamenv.errors import ConfigError

__all__ = ["EpsilonPolicy", "MixturePolicy", "Policy", "RandomPolicy", "StickyRandomPolicy", "TracksLastAction"]

_Frame = npt.NDArray[np.uint8]


class Policy(Protocol):
    """Chooses actions for one environment. They are a function of the seed and the frames of an episode.

    Attributes:
        name: its name in the recording; read after `reset`.
    """

    @property
    def name(self) -> str:
        """Its name in the recording."""
        ...

    def reset(self, seed: int) -> None:
        """Start an episode and forget the previous one."""
        ...

    def act(self, frame: _Frame) -> Any:
        """Choose an action after seeing a frame (h, w, c)."""
        ...


@runtime_checkable
class TracksLastAction(Protocol):
    """A policy that remembers its last action, and must know if another action was executed instead."""

    def set_last_action(self, action: Any) -> None:
        """Set the action that was executed after the last frame, in place of the one that `act` returned."""
        ...


class RandomPolicy:
    """Samples every action uniformly from the action space."""

    name = "random"

    def __init__(self, space: gym.Space[Any]) -> None:
        self._space = _copy(space)

    def reset(self, seed: int) -> None:
        """Start an episode."""
        self._space.seed(seed)

    def act(self, frame: _Frame) -> Any:
        """Sample an action."""
        return self._space.sample()


class StickyRandomPolicy:
    """Repeats its last action with a probability, and else samples one uniformly: it gets further than a random walk.

    Args:
        space: the action space.
        stickiness: probability of repeating, in [0, 1); an action lasts 1 / (1 - stickiness) steps or a little more.
    """

    name = "sticky"

    def __init__(self, space: gym.Space[Any], stickiness: float = 0.75) -> None:
        stickiness = check_number("stickiness", stickiness, least=0)
        if stickiness >= 1:
            raise ConfigError(f"stickiness must be in [0, 1), not {stickiness}.")
        self._space, self.stickiness = _copy(space), stickiness
        self._random = np.random.default_rng(0)
        self._action: Any = None

    def reset(self, seed: int) -> None:
        """Start an episode."""
        self._space.seed(seed)
        self._random = np.random.default_rng(seed)
        self._action = None

    def act(self, frame: _Frame) -> Any:
        """Repeat the last action or sample one."""
        if self._action is None or self._random.random() >= self.stickiness:
            self._action = self._space.sample()
        return self._action


class MixturePolicy:
    """Chooses one of several policies for each episode.

    Args:
        parts: (weight, policy) pairs; weights are relative.
    """

    def __init__(self, parts: Sequence[tuple[float, Policy]]) -> None:
        weights = np.array([weight for weight, _ in parts], np.float64)
        if len(parts) == 0 or not np.isfinite(weights).all() or weights.min() < 0 or weights.sum() <= 0:
            raise ConfigError(f"a mixture needs weights of at least 0 that are not all 0, not {weights.tolist()}.")
        self._policies = [policy for _, policy in parts]
        self._probabilities = weights / weights.sum()
        self._current = self._policies[0]

    @property
    def name(self) -> str:
        """The name of the policy that plays this episode."""
        return self._current.name

    def reset(self, seed: int) -> None:
        """Choose the policy of this episode."""
        chosen = np.random.default_rng((seed, 0x313)).choice(len(self._policies), p=self._probabilities)
        self._current = self._policies[chosen]
        self._current.reset(seed)

    def act(self, frame: _Frame) -> Any:
        """Choose an action with the policy of this episode."""
        return self._current.act(frame)

    def set_last_action(self, action: Any) -> None:
        """Set the last action of the policy of this episode."""
        if isinstance(self._current, TracksLastAction):
            self._current.set_last_action(action)


class EpsilonPolicy:
    """Replaces a policy's action by a uniformly random one with probability epsilon.

    Args:
        policy: the policy.
        epsilon: in [0, 1].
        space: the action space.
    """

    def __init__(self, policy: Policy, epsilon: float, space: gym.Space[Any]) -> None:
        if not 0 <= epsilon <= 1:
            raise ConfigError(f"epsilon must be in [0, 1], not {epsilon}.")
        self._policy, self._epsilon, self._space = policy, epsilon, _copy(space)
        self._random = np.random.default_rng(0)

    @property
    def name(self) -> str:
        """The policy's name and epsilon."""
        return f"{self._policy.name}, epsilon {self._epsilon:g}"

    def reset(self, seed: int) -> None:
        """Start an episode."""
        self._policy.reset(seed)
        self._random = np.random.default_rng((seed, 0xE95))
        self._space.seed(seed)

    def act(self, frame: _Frame) -> Any:
        """Return the policy's action or a random one."""
        action = self._policy.act(frame)  # always, since a policy with a memory must see every frame
        if self._random.random() < self._epsilon:
            action = self._space.sample()
            if isinstance(self._policy, TracksLastAction):
                self._policy.set_last_action(action)
        return action


def _copy(space: gym.Space[Any]) -> gym.Space[Any]:
    """Copy a space, since sampling changes the generator inside it."""
    return space_from_json(space_to_json(space))
