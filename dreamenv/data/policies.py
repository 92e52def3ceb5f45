"""Who acts while a real environment is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from dreamenv.data.spaces import space_from_json, space_to_json
from dreamenv.errors import ConfigError

__all__ = ["Corrected", "EpsilonPolicy", "MixturePolicy", "Policy", "RandomPolicy", "StickyRandomPolicy"]

_Frame = npt.NDArray[np.uint8]


class Policy(Protocol):
    """Chooses actions for one environment, one episode after another. All it does follows from the seed and the frames.

    Attributes:
        name: what the recording calls it; read after `reset`.
    """

    @property
    def name(self) -> str:
        """What the recording calls it."""
        ...

    def reset(self, seed: int) -> None:
        """Begin an episode; whatever was before it is forgotten."""
        ...

    def act(self, frame: _Frame) -> Any:
        """Choose an action after seeing a frame (h, w, c)."""
        ...


@runtime_checkable
class Corrected(Protocol):
    """A policy with a memory of its own actions, which wants to know when another one was taken instead."""

    def took(self, action: Any) -> None:
        """Hear that this action was taken after the last frame, not the one that `act` returned."""
        ...


class RandomPolicy:
    """Draws every action uniformly from the action space."""

    name = "random"

    def __init__(self, space: gym.Space[Any]) -> None:
        self._space = _own(space)

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self._space.seed(seed)

    def act(self, frame: _Frame) -> Any:  # noqa: ARG002  (it is blind)
        """Draw an action."""
        return self._space.sample()


class StickyRandomPolicy:
    """Keeps its last action with a probability, and else draws one uniformly: it gets further than a random walk.

    Args:
        space: the action space.
        stickiness: the probability, in [0, 1); actions then last 1 / (1 - stickiness) steps or a little more.
    """

    name = "sticky"

    def __init__(self, space: gym.Space[Any], stickiness: float = 0.75) -> None:
        if not 0 <= stickiness < 1:
            raise ConfigError(f"stickiness must be in [0, 1), not {stickiness}.")
        self._space, self.stickiness = _own(space), stickiness
        self._random = np.random.default_rng(0)
        self._action: Any = None

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self._space.seed(seed)
        self._random = np.random.default_rng(seed)
        self._action = None

    def act(self, frame: _Frame) -> Any:  # noqa: ARG002  (it is blind)
        """Keep the last action or draw one."""
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
        self._shares = weights / weights.sum()
        self._current = self._policies[0]

    @property
    def name(self) -> str:
        """The name of the policy that plays this episode."""
        return self._current.name

    def reset(self, seed: int) -> None:
        """Choose who plays this episode."""
        chosen = np.random.default_rng((seed, 0x313)).choice(len(self._policies), p=self._shares)
        self._current = self._policies[chosen]
        self._current.reset(seed)

    def act(self, frame: _Frame) -> Any:
        """Let the chosen one act."""
        return self._current.act(frame)

    def took(self, action: Any) -> None:
        """Pass it on."""
        if isinstance(self._current, Corrected):
            self._current.took(action)


class EpsilonPolicy:
    """Replaces a policy's action by a uniformly random one with probability epsilon.

    Args:
        policy: whose actions they are otherwise.
        epsilon: in [0, 1].
        space: where random actions come from.
    """

    def __init__(self, policy: Policy, epsilon: float, space: gym.Space[Any]) -> None:
        if not 0 <= epsilon <= 1:
            raise ConfigError(f"epsilon must be in [0, 1], not {epsilon}.")
        self._policy, self._epsilon, self._space = policy, epsilon, _own(space)
        self._random = np.random.default_rng(0)

    @property
    def name(self) -> str:
        """The policy's name and the share of random actions."""
        return f"{self._policy.name}, epsilon {self._epsilon:g}"

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self._policy.reset(seed)
        self._random = np.random.default_rng((seed, 0xE95))
        self._space.seed(seed)

    def act(self, frame: _Frame) -> Any:
        """Let the policy act, or chance."""
        action = self._policy.act(frame)  # always, so that its memory sees every frame
        if self._random.random() < self._epsilon:
            action = self._space.sample()
            if isinstance(self._policy, Corrected):
                self._policy.took(action)
        return action


def _own(space: gym.Space[Any]) -> gym.Space[Any]:
    """Copy a space, because sampling draws from a generator inside it."""
    return space_from_json(space_to_json(space))
