"""Changed environments: the same task with other colours, another speed, swapped turns, or in another room."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from dreamenv.envs import make_real
from dreamenv.errors import ConfigError, UnknownNameError

__all__ = ["SHIFTS", "OtherColours", "SwappedTurns", "make_shifted", "shifts_of"]

_ROOMS: Mapping[str, str] = {"minigrid_lava_gap": "minigrid_four_rooms", "minigrid_four_rooms": "minigrid_lava_gap"}
"""A task of the same actions in another room, where there is one."""

_STRIPE, _STRENGTH = 4, 40  # pixels from one stripe to the next, and levels that it is darker by

_Frame = NDArray[np.uint8]


class OtherColours(gym.ObservationWrapper[_Frame, Any, _Frame]):
    """Every surface in another colour, with another texture: channels change places, and every fourth row is darker."""

    def observation(self, observation: _Frame) -> _Frame:
        """Return the frame in other colours."""
        changed = observation[..., [1, 2, 0]]
        changed[::_STRIPE] -= np.minimum(changed[::_STRIPE], _STRENGTH)
        return changed


class SwappedTurns(gym.ActionWrapper[_Frame, Any, Any]):
    """The second and the third action do what the other did: left is right."""

    def action(self, action: Any) -> Any:
        """Return the action that is taken instead."""
        return {1: 2, 2: 1}.get(int(action), action)


SHIFTS: Mapping[str, str] = {
    "colours": "other colours and textures",
    "speed": "every action twice as long",
    "turns": "left and right swapped",
    "room": "another room",
}
"""Name -> what is different."""


def shifts_of(task: str) -> tuple[str, ...]:
    """Return the names of the changes that a task has."""
    return tuple(name for name in SHIFTS if name != "room" or task in _ROOMS)


def make_shifted(task: str, shift: str | None = None, **settings: Any) -> Callable[[], gym.Env[Any, Any]]:
    """Return a picklable function that makes a task as it is, or changed.

    Args:
        task: short name.
        shift: one of `SHIFTS`; None changes nothing.
        settings: of `make_real`.

    Raises:
        UnknownNameError: there is no such change.
        ConfigError: the task has no such change.
    """
    if shift is not None and shift not in SHIFTS:
        raise UnknownNameError("change", shift, SHIFTS)
    if shift is not None and shift not in shifts_of(task):
        raise ConfigError(f"{task} has no other room here. It has: {', '.join(shifts_of(task))}.")
    return partial(_make, task, shift, settings)


def _make(task: str, shift: str | None, settings: Mapping[str, Any]) -> gym.Env[Any, Any]:
    env = make_real(_ROOMS[task] if shift == "room" else task, **settings)
    if shift == "speed":
        skip = 2 * env.get_wrapper_attr("provenance").frame_skip
        env.close()
        env = make_real(task, **{**settings, "frame_skip": skip})
    if shift == "colours":
        return OtherColours(env)
    return SwappedTurns(env) if shift == "turns" else env
