"""The layout of actions inside models and on disk: one array (*a) of numbers per action.

Discrete, MultiDiscrete, MultiBinary and Box spaces keep the shape they have: () for Discrete, ``space.shape`` for the
others; int64, but float32 for Box. A Dict, whose entries may be Dicts again, becomes one flat vector (n,): its entries
one after another **in the sorted order of their keys**, Dicts within likewise, arrays in C order. It is int64 if every
entry is discrete; one Box among them makes it float32, which holds whole numbers exactly up to 2**24.

So ``(b, t, *a)`` holds everywhere, and a model never meets a dictionary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from dreamenv.errors import ActionError, ConfigError

__all__ = ["ActionLayout", "ActionPart"]

Numbers = npt.NDArray[Any]

_DISCRETE = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
_LARGEST_WHOLE = 2**24  # above it float32 skips numbers


@dataclass(frozen=True, eq=False)
class ActionPart:
    """One entry of a Dict, or the whole of another space.

    Attributes:
        path: the keys that lead to it; empty for a space that is no Dict.
        space: a Discrete, MultiDiscrete, MultiBinary or Box.
        columns: its place among the numbers of the flattened action.
    """

    path: tuple[str, ...]
    space: gym.Space[Any]
    columns: slice

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one action of it."""
        return tuple(self.space.shape or ())

    @property
    def discrete(self) -> bool:
        """Whether it is discrete."""
        return isinstance(self.space, _DISCRETE)

    @property
    def whole(self) -> bool:
        """Whether its numbers are integers: discrete, or a Box of integers."""
        return self.space.dtype is not None and self.space.dtype.kind in "iub"

    @property
    def bounds(self) -> tuple[Numbers, Numbers]:
        """The least and the greatest value of each of its numbers, (n,) each, in C order."""
        low: Any
        high: Any
        match self.space:
            case spaces.Discrete(start=start, n=n):
                low, high = start, start + n - 1
            case spaces.MultiDiscrete(start=start, nvec=nvec):
                low, high = start, start + nvec - 1
            case spaces.Box():
                low, high = self.space.low, self.space.high
            case _:
                low, high = np.zeros(self.shape, np.int64), np.ones(self.shape, np.int64)
        return np.asarray(low).ravel(), np.asarray(high).ravel()


class ActionLayout:
    """The layout of one space.

    Args:
        space: Discrete, MultiDiscrete, MultiBinary, Box, or a Dict of these or of Dicts.

    Attributes:
        space: the space.
        parts: what it consists of, in the order of the numbers.
        shape: *a, of one action.
        dtype: int64 or float32.
        low, high: (*a) of that type, the bounds of every number; infinite where a Box has none.
        whole: (*a) bool, which numbers are whole.

    Raises:
        ConfigError: another kind of space.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self.space, self.parts = space, tuple(_parts(space))
        self.shape: tuple[int, ...] = (self.size,) if isinstance(space, spaces.Dict) else self.parts[0].shape
        real = any(not part.discrete for part in self.parts)
        self.dtype: np.dtype[Any] = np.dtype(np.float32 if real else np.int64)
        lows, highs = zip(*(part.bounds for part in self.parts), strict=True)
        largest = [np.abs(bounds).max(initial=0) for part in self.parts for bounds in part.bounds if part.discrete]
        if real and largest and max(largest) > _LARGEST_WHOLE:
            raise ConfigError(
                f"{space} has choices beyond {_LARGEST_WHOLE}, which float32 cannot hold together with a Box."
            )
        # In the arrays' own precision: 0.1 is a little more in float32 than in float64.
        self.low: Numbers = np.concatenate(lows).astype(self.dtype).reshape(self.shape)
        self.high: Numbers = np.concatenate(highs).astype(self.dtype).reshape(self.shape)
        whole = [np.full(len(low), part.whole) for part, low in zip(self.parts, lows, strict=True)]
        self.whole: npt.NDArray[np.bool_] = np.concatenate(whole).reshape(self.shape)

    @property
    def size(self) -> int:
        """How many numbers an action has."""
        return int(self.parts[-1].columns.stop)

    @property
    def names(self) -> tuple[str, ...]:
        """A name for every number: ``camera[0]``, ``move.jump``, ...; ``[0]`` where a space has no keys."""
        names: list[str] = []
        for part in self.parts:
            prefix = ".".join(part.path)
            places = [f"[{', '.join(map(str, place))}]" for place in np.ndindex(part.shape)] if part.shape else [""]
            names += [prefix + place for place in places]
        return tuple(names)

    @cached_property
    def flat_space(self) -> gym.Space[Any]:
        """A space without keys whose actions are these arrays: the space itself unless it is a Dict."""
        if not isinstance(self.space, spaces.Dict):
            return self.space
        if self.dtype.kind == "i":
            return spaces.MultiDiscrete(self.high - self.low + 1, start=self.low)
        return spaces.Box(self.low, self.high, dtype=np.float32)

    def pack(self, action: Any) -> Numbers:
        """Turn one action of the space into its array (*a).

        Raises:
            ActionError: of another form than the space's; whether its numbers lie inside is not checked.
        """
        return self._join(action, 0)

    def pack_rows(self, actions: Any) -> Numbers:
        """Turn n actions, batched as gymnasium does (a dictionary of arrays for a Dict), into an array (n, *a).

        Raises:
            ActionError: of another form than the space's; whether their numbers lie inside is not checked.
        """
        return self._join(actions, 1)

    def unpack(self, numbers: Numbers) -> Any:
        """Turn an array (*a) into an action of the space."""
        return self._split(np.asarray(numbers)[None], single=True)

    def unpack_rows(self, numbers: Numbers) -> Any:
        """Turn an array (n, *a) into n actions, batched as gymnasium does."""
        return self._split(np.asarray(numbers), single=False)

    def inside(self, numbers: Numbers) -> npt.NDArray[np.bool_]:
        """Say of every action (n, *a) whether it lies in the space: (n,) bool. NaN never does."""
        good: npt.NDArray[np.bool_] = np.asarray((numbers >= self.low) & (numbers <= self.high))
        if numbers.dtype.kind == "f" and self.whole.any():
            good &= ~self.whole | (numbers == np.round(numbers))
        return np.asarray(good.all(axis=tuple(range(1, good.ndim))))

    def _join(self, actions: Any, lead: int) -> Numbers:
        """Flatten actions with so many leading axes."""
        if not isinstance(self.space, spaces.Dict):
            return _fitting(actions, self.parts[0], lead).astype(self.dtype, copy=False)
        _check_keys(actions, self.space)
        arrays = []
        for part in self.parts:
            entry = actions
            for key in part.path:
                entry = entry[key]
            array = _fitting(entry, part, lead)
            arrays.append(array.reshape(*array.shape[:lead], -1))
        rows = {array.shape[:lead] for array in arrays}
        if len(rows) > 1:
            raise ActionError(f"the entries of these actions have {sorted(n for (n,) in rows)} rows; they must agree.")
        return np.concatenate(arrays, axis=-1).astype(self.dtype, copy=False)

    def _split(self, numbers: Numbers, *, single: bool) -> Any:
        flat = numbers.reshape(len(numbers), self.size)
        tree: Any = {}
        for part in self.parts:
            values = flat[:, part.columns].reshape(-1, *part.shape)
            if part.whole and values.dtype.kind == "f":
                values = np.round(values)
            entry = values.astype(part.space.dtype, copy=False)
            entry = entry[0] if single else entry
            if not part.path:
                return entry
            branch = tree
            for key in part.path[:-1]:
                branch = branch.setdefault(key, {})
            branch[part.path[-1]] = entry
        return tree

    def __repr__(self) -> str:
        return f"ActionLayout({self.space}, shape={self.shape}, dtype={self.dtype})"


def _parts(space: gym.Space[Any], path: tuple[str, ...] = (), begin: int = 0) -> Iterator[ActionPart]:
    if isinstance(space, spaces.Dict) and space.spaces:
        for key in sorted(space.spaces):
            for part in _parts(space.spaces[key], (*path, key), begin):
                begin = part.columns.stop
                yield part
    elif isinstance(space, _DISCRETE) or (isinstance(space, spaces.Box) and space.dtype.kind in "fiu"):
        size = int(np.prod(space.shape or (), dtype=np.int64))
        yield ActionPart(path, space, slice(begin, begin + size))
    else:
        where = f" (at {'.'.join(path)!r})" if path else ""
        raise ConfigError(
            f"actions of {space}{where} cannot be recorded, learned or dreamt; use Discrete, MultiDiscrete, "
            "MultiBinary, Box, or a Dict of these."
        )


def _fitting(value: Any, part: ActionPart, lead: int) -> Numbers:
    """Return what was given for a part as an array, if it has the right form."""
    array = np.asarray(value)
    kinds = "iu" if part.discrete else "fiu"
    if array.ndim < lead or array.shape[lead:] != part.shape or array.dtype.kind not in kinds:
        name = f"the entry {'.'.join(part.path)!r} of an action" if part.path else "an action"
        wanted = "integers" if part.discrete else "numbers"
        raise ActionError(f"{name} must be {part.shape} {wanted}, one of {part.space}, not {array.shape[lead:]} "
                          f"{array.dtype}.")  # fmt: skip
    return array


def _check_keys(actions: Any, space: spaces.Dict, path: str = "") -> None:
    """Raise unless actions are dictionaries with exactly the keys of a Dict."""
    name = f"the entry {path!r} of an action" if path else "an action"
    keys = ", ".join(map(repr, sorted(space.spaces)))
    if not isinstance(actions, Mapping):
        raise ActionError(f"{name} must be a dictionary of {keys}, not a {type(actions).__name__}.")
    for verb, others in (
        ("lacks", set(space.spaces) - set(actions)),
        ("also has", set(actions) - set(space.spaces)),
    ):
        if others:
            raise ActionError(
                f"{name} must be a dictionary of {keys}; it {verb} {', '.join(sorted(map(repr, others)))}."
            )
    for key, inner in space.spaces.items():
        if isinstance(inner, spaces.Dict):
            _check_keys(actions[key], inner, f"{path}.{key}" if path else key)
