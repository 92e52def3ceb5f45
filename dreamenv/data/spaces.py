"""Convert Gymnasium spaces to JSON and back, in the format of Minari."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from dreamenv.checks import show
from dreamenv.errors import ConfigError

__all__ = ["show_space", "space_from_json", "space_to_json"]


def show_space(space: gym.Space[Any]) -> str:
    """Write a space for people: numbers that stand for no bound are written as infinite."""
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        most = np.finfo(space.dtype).max
        if (space.low == -most).all() and (space.high == most).all():
            return f"Box(-inf, inf, {space.shape}, {space.dtype})"
    return str(space)


def space_to_json(space: gym.Space[Any]) -> dict[str, Any]:
    """Describe a Discrete, MultiDiscrete, MultiBinary, Box or Dict space.

    Infinite bounds become the numbers that Python's json writes as ``Infinity``.

    Raises:
        ConfigError: the space is of another kind.
    """
    match space:
        case spaces.Discrete():
            return {"type": "Discrete", "dtype": str(space.dtype), "start": int(space.start), "n": int(space.n)}
        case spaces.MultiDiscrete():
            nvec, start = space.nvec.tolist(), space.start.tolist()
            return {"type": "MultiDiscrete", "dtype": str(space.dtype), "nvec": nvec, "start": start}
        case spaces.MultiBinary():
            return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.n)}
        case spaces.Box():
            low, high = space.low.tolist(), space.high.tolist()
            return {"type": "Box", "dtype": str(space.dtype), "shape": list(space.shape), "low": low, "high": high}
        case spaces.Dict():
            return {"type": "Dict", "subspaces": {key: space_to_json(value) for key, value in space.items()}}
        case _:
            raise ConfigError(
                f"a space of type {type(space).__name__} has no JSON form; use one of {', '.join(_MAKERS)}."
            )


def space_from_json(values: dict[str, Any]) -> gym.Space[Any]:
    """Convert the result of `space_to_json` back to a space.

    Raises:
        ConfigError: the kind of space is unknown, or a value is missing or cannot work.
    """
    kind = values.get("type") if isinstance(values, dict) else None
    if not isinstance(kind, str) or kind not in _MAKERS:
        raise ConfigError(f"{show(kind)} is no known space; the known ones are {', '.join(_MAKERS)}.")
    try:
        return _MAKERS[kind](values)
    except KeyError as error:
        raise ConfigError(f"the description of a {kind} space lacks {error}.") from None
    except (AssertionError, AttributeError, MemoryError, OverflowError, RecursionError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"the description of a {kind} space cannot be read: {str(error)[:200]}.") from error


def _box(values: dict[str, Any]) -> gym.Space[Any]:
    dtype = np.dtype(values["dtype"])
    shape = tuple(values["shape"])
    with np.errstate(over="ignore"):  # beyond the type there is no bound
        low, high = (np.array(values[bound], dtype) for bound in ("low", "high"))
    if low.shape != shape or high.shape != shape:  # a shape is not believed: it might ask for any memory
        raise ValueError(f"bounds of {low.shape} and {high.shape} are not of the shape {shape}")
    return spaces.Box(low=low, high=high, shape=shape, dtype=dtype.type)


def _multi_binary(values: dict[str, Any]) -> gym.Space[Any]:
    return spaces.MultiBinary(values["n"] if isinstance(values["n"], int) else tuple(values["n"]))


_MAKERS: dict[str, Callable[[dict[str, Any]], gym.Space[Any]]] = {
    "Discrete": lambda v: spaces.Discrete(v["n"], start=v.get("start", 0)),
    "MultiDiscrete": lambda v: spaces.MultiDiscrete(v["nvec"], dtype=np.dtype(v["dtype"]).type, start=v["start"]),
    "MultiBinary": _multi_binary,
    "Box": _box,
    "Dict": lambda v: spaces.Dict({key: space_from_json(value) for key, value in v["subspaces"].items()}),
}
