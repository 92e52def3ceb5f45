"""Policies as pure functions of what they see and of a state with one row per episode."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from dreamenv.agents.actions import PolicyActions
from dreamenv.agents.saved_policy import PolicyState
from dreamenv.randomness import seed_keys

__all__ = ["Actor", "RandomActor"]


@runtime_checkable
class Actor(Protocol):
    """Acts in b rows; `SavedPolicy` is one. What a row does depends on its seed, not on the other rows."""

    def start(self, seeds: NDArray[np.int64]) -> PolicyState:
        """Return the state of rows at the start of their episodes, one seed (b,) each."""
        ...

    def act(
        self, observations: NDArray[Any], state: PolicyState, *, deterministic: bool = False
    ) -> tuple[NDArray[Any], PolicyState]:
        """Choose one action per row, of the space that policies act in (see `PolicyActions`)."""
        ...


class RandomActor:
    """Acts uniformly at random; the floor of every table.

    Args:
        action_space: what the environment takes.
    """

    def __init__(self, action_space: gym.Space[Any]) -> None:
        self.action_space = PolicyActions(action_space).space

    def start(self, seeds: NDArray[np.int64]) -> PolicyState:
        """Return the rows' random streams."""
        seed = torch.as_tensor(seeds, dtype=torch.int64)
        return PolicyState({"rng_key": seed_keys(seed), "rng_counter": torch.zeros_like(seed)}, batch_size=[len(seeds)])

    def act(
        self, observations: NDArray[Any], state: PolicyState, *, deterministic: bool = False
    ) -> tuple[NDArray[Any], PolicyState]:
        """Sample from the space that policies act in, whatever is seen."""
        del observations, deterministic
        following = state.clone(recurse=False)
        following["rng_counter"] = state["rng_counter"] + 1
        actions = []
        for key, counter in zip(state["rng_key"].tolist(), state["rng_counter"].tolist(), strict=True):
            self.action_space.seed((key ^ counter * 0x9E3779B97F4A7C15) & 0x7FFFFFFF)
            actions.append(self.action_space.sample())
        return np.stack(actions), following
