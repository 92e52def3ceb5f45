"""Action sequences from a script: ``left*20, noop*5, right``, or sampled at random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

import gymnasium as gym
import numpy as np

from dreamenv.data.policies import Policy, RandomPolicy, StickyRandomPolicy
from dreamenv.errors import ConfigError, UnknownNameError

__all__ = ["scripted_actions"]

STICKINESS = 0.9
"""Probability that a sticky random script keeps its action; at 9 Hz an action then lasts about a second."""


def scripted_actions(script: str, space: gym.Space[Any], names: Sequence[str], *, seed: int) -> Iterator[Any]:
    """Yield actions indefinitely.

    Args:
        script: "random", "sticky", or names or numbers of discrete actions with repeats, as in "left*20, noop*5",
            over and over.
        space: the actions' space; only a Discrete one can be scripted by name.
        names: the names of the discrete actions.
        seed: of "random" and "sticky".

    Raises:
        UnknownNameError: an action that is not among the names.
        ConfigError: a repeat that is no positive number, an empty script, or names for a space that is not Discrete.
    """
    if script == "random":
        return _sampled(RandomPolicy(space), seed)
    if script == "sticky":
        return _sampled(StickyRandomPolicy(space, STICKINESS), seed)
    if not isinstance(space, gym.spaces.Discrete):
        raise ConfigError(f"actions of {space} cannot be named; use 'random' or 'sticky' instead of {script!r}.")
    return cycle(_read(script, [*names] or [str(action) for action in range(int(space.n))]))


def _sampled(policy: Policy, seed: int) -> Iterator[Any]:
    policy.reset(seed)
    unseen = np.zeros((1, 1, 3), np.uint8)
    while True:
        yield policy.act(unseen)


def _read(script: str, names: Sequence[str]) -> list[int]:
    actions: list[int] = []
    for part in filter(None, (piece.strip() for piece in script.split(","))):
        name, _, repeats = (word.strip() for word in part.partition("*"))
        if name.isdecimal() and int(name) < len(names):
            action = int(name)
        elif name in names:
            action = names.index(name)
        else:
            raise UnknownNameError("action", name, names)
        if repeats and not (repeats.isdecimal() and int(repeats)):
            raise ConfigError(f"{part!r} must repeat a positive number of times, as in '{name}*20'.")
        actions += [action] * int(repeats or 1)
    if not actions:
        raise ConfigError(f"the script {script!r} holds no action; try '{names[0]}*10'.")
    return actions
