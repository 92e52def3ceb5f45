"""The actions of an environment as stable-baselines3 takes them: counted from 0, flat, and without dictionaries.

stable-baselines3 knows Discrete, MultiDiscrete, MultiBinary and Box, ignores a Discrete's start, and refuses Dict. So a
policy acts in a space of its own, and `PolicyActions` converts:

========================  ==============================================================================
environment               policy
========================  ==============================================================================
Discrete(n, start)        Discrete(n)
MultiDiscrete (any shape) MultiDiscrete (p,), counted from 0
MultiBinary (any shape)   MultiDiscrete of twos
Box                       Box of the same shape and bounds, float32
Dict of choices           MultiDiscrete, its entries in the order of `dreamenv.action_layout`
Dict with a Box           Box (n,) in that order; a choice among n, start s, is the number from s - 1/2 to s + n - 1/2
                          that is nearest to it
========================  ==============================================================================

In the last row a choice is sampled from a Gaussian: that learns, but worse than a categorical would. Give the
environment a table of actions (Discrete) where that matters.
"""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from dreamenv.action_layout import ActionLayout
from dreamenv.errors import ActionError

__all__ = ["PolicyActions"]

_FARTHEST = 2**31  # beyond it no choice is counted


class PolicyActions:
    """Converts between an environment's actions and a policy's.

    Args:
        space: the environment's.

    Attributes:
        layout: how an action is carried as an array (*a).
        space: the policy's.

    Raises:
        ConfigError: a kind of space that cannot be learned.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self.layout = layout = ActionLayout(space)
        self._chosen = np.zeros(layout.size, np.bool_)  # numbers that stand for choices
        for part in layout.parts:
            self._chosen[part.columns] = part.discrete
        self._chosen = self._chosen.reshape(layout.shape)
        self.space: gym.Space[Any]
        if isinstance(space, spaces.Discrete):
            self.space = spaces.Discrete(int(space.n))
        elif layout.dtype.kind == "i":
            self.space = spaces.MultiDiscrete((layout.high - layout.low + 1).ravel())
        elif isinstance(space, spaces.Box) and space.dtype == np.float32:
            self.space = copy.deepcopy(space)  # sampling uses a generator inside it
        else:
            half = np.where(self._chosen, 0.5, 0.0)
            self.space = spaces.Box(
                (layout.low - half).astype(np.float32), (layout.high + half).astype(np.float32), dtype=np.float32
            )

    def to_arrays(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Turn a policy's actions (b, ...) into arrays (b, *a); choices are rounded to one there is.

        Quantities stay as they are: one beyond its bounds is for the environment to refuse.

        Raises:
            ActionError: fractions where there are choices alone, or no numbers.
        """
        layout = self.layout
        fits = actions.dtype.kind in "fiub"
        if layout.dtype.kind == "i" and actions.dtype.kind == "f":  # as stable-baselines3 gives one of two choices
            fits = bool(((actions == np.round(actions)) & (np.abs(actions) <= _FARTHEST)).all())
        if not fits:
            raise ActionError(f"an action of {self.space} cannot be among {actions!r} ({actions.dtype}).")
        if layout.dtype.kind == "i":
            return np.asarray(actions, np.int64).reshape(-1, *layout.shape) + layout.low
        numbers = np.asarray(actions, np.float32).reshape(-1, *layout.shape)
        if not layout.whole.any():
            return numbers
        numbers = np.where(layout.whole, np.round(numbers), numbers)
        return np.where(self._chosen, np.clip(numbers, layout.low, layout.high), numbers)

    def from_arrays(self, arrays: NDArray[Any]) -> NDArray[Any]:
        """Turn arrays (b, *a) into a policy's actions (b, ...), back from `to_arrays`."""
        counted = arrays - self.layout.low if self.layout.dtype.kind == "i" else arrays
        return counted.reshape(len(arrays), *(self.space.shape or ()))

    def to_environment(self, arrays: NDArray[Any]) -> list[Any]:
        """Turn arrays (b, *a) into b actions of the environment."""
        return [self.layout.unpack(one) for one in arrays]
