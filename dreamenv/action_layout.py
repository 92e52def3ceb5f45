"""How the actions of a space lie in one array: the form in which data, models and dreams carry them.

===================  =============================  =========  ===========================================
space                array of one action, ``*a``    type       values
===================  =============================  =========  ===========================================
Discrete             ()                             int64      the number, ``start`` included
MultiDiscrete        the space's shape              int64      the numbers, ``start`` included
MultiBinary          the space's shape              int64      0 or 1
Box                  the space's shape              float32    the numbers (whole ones for an integer Box)
Dict, also nested    (n,)                           see below  the entries' values one after another
===================  =============================  =========  ===========================================

A Dict's entries come in the order of their sorted keys, each flattened in C order; the array is int64 if all entries
are whole numbers, and float32 as soon as one of them is a Box. `ActionLayout.names` says what each value is. So actions
are (b, t, *a) for every space and no model needs to know which it is; the environment's own form returns at the
boundary (`ActionLayout.unpack`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from dreamenv.errors import ActionError, ConfigError

__all__ = ["ActionLayout"]

_Leaf = tuple[tuple[str, ...], gym.Space[Any]]


class ActionLayout:
    """The array form of a space's actions.

    Args:
        space: Discrete, MultiDiscrete, MultiBinary, Box, or a Dict of these.

    Attributes:
        space: the space.
        shape: ``*a``, of one action's array.
        dtype: int64 or float32.
        size: how many values one action has.
        names: of the values, such as "camera.0"; "" for the only value of a space without keys.
        choices: per value, how many whole numbers it can be; 0 for a real number.
        low, high: (size,) float64, the least and greatest of each value; infinite where a Box has no bound.

    Raises:
        ConfigError: another kind of space.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self.space = space
        self._leaves = list(_leaves(space, ()))
        real = any(isinstance(leaf, gym.spaces.Box) for _, leaf in self._leaves)
        self.dtype: np.dtype[Any] = np.dtype(np.float32 if real else np.int64)
        names: list[str] = []
        choices: list[npt.NDArray[Any]] = []
        bounds: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []
        for path, leaf in self._leaves:
            low, high = _bounds(leaf)
            parts = [*path, ""] if low.size == 1 and not low.ndim else [*path]
            names += [".".join([*parts, *map(str, place)]).rstrip(".") for place in np.ndindex(low.shape)]
            bounds.append((low.ravel(), high.ravel()))
            whole = not isinstance(leaf, gym.spaces.Box)
            choices.append((high - low + 1 if whole else np.zeros_like(low)).ravel())
        self.names = tuple(names)
        self.size = len(names)
        self.low: npt.NDArray[np.float64] = np.concatenate([low for low, _ in bounds] or [np.zeros(0)])
        self.high: npt.NDArray[np.float64] = np.concatenate([high for _, high in bounds] or [np.zeros(0)])
        self.choices = tuple(int(n) for n in np.concatenate([*choices, np.zeros(0)]))
        self.shape: tuple[int, ...] = (
            (self.size,) if isinstance(space, gym.spaces.Dict) else tuple(int(n) for n in space.shape or ())
        )
        self._whole = np.array(self.choices) > 0 if real else None  # of a float array: what must be whole numbers

    # The environment's own form, and back

    def pack(self, action: Any) -> npt.NDArray[Any]:
        """Turn one action of the space into its array ``(*a)``.

        Raises:
            ActionError: of another form than the space's actions; whether its values lie inside is not checked.
        """
        return self._gather(action, ())

    def pack_rows(self, actions: Any, rows: int) -> npt.NDArray[Any]:
        """Turn a batch as gymnasium's vector environments take it, a Dict's as ``{key: (b, ...)}``, into (b, *a).

        Raises:
            ActionError: of another form, or of another number of rows.
        """
        return self._gather(actions, (rows,))

    def unpack(self, array: Any) -> Any:
        """Turn an array ``(*a)`` into the space's own form: what `pack` was given."""
        values = np.asarray(array)
        if isinstance(self.space, gym.spaces.Discrete):
            return self.space.dtype.type(values)
        return self._scatter(values, ())

    def unpack_rows(self, array: Any) -> Any:
        """Turn (b, *a) into a batch: an array (b, ...), or for a Dict ``{key: (b, ...)}``, nested as the space is."""
        values = np.asarray(array)
        return self._scatter(values, (len(values),))

    # Checks

    def find_outside(self, actions: npt.NDArray[Any]) -> int | None:
        """Return the first of actions (n, *a) that is not in the space, None if all are."""
        flat = actions.reshape(len(actions), self.size)
        # In the array's own precision: 0.1 is a little more in float32 than in float64.
        good = (flat >= self.low.astype(self.dtype)) & (flat <= self.high.astype(self.dtype))  # False for NaN
        if self._whole is not None:
            good &= ~self._whole | (flat == np.rint(flat))
        bad = np.flatnonzero(~good.all(axis=1))
        return int(bad[0]) if len(bad) else None

    def packed_space(self) -> gym.Space[Any]:
        """Return the space of the arrays themselves; the space itself unless it is a Dict."""
        if not isinstance(self.space, gym.spaces.Dict):
            return self.space
        if self.dtype.kind == "f":
            return gym.spaces.Box(self.low.astype(np.float32), self.high.astype(np.float32), dtype=np.float32)
        return gym.spaces.MultiDiscrete(np.array(self.choices), start=self.low.astype(np.int64))

    def __repr__(self) -> str:
        return f"ActionLayout({self.space}: {self.shape} {self.dtype})"

    # Private

    def _gather(self, actions: Any, lead: tuple[int, ...]) -> npt.NDArray[Any]:
        if not isinstance(self.space, gym.spaces.Dict):
            return self._leaf_array(actions, self.space, (), lead).astype(self.dtype)
        _check_keys(actions, self.space, ())
        parts = []
        for path, leaf in self._leaves:
            value = actions
            for key in path:
                value = value[key]
            parts.append(self._leaf_array(value, leaf, path, lead).reshape(*lead, -1).astype(self.dtype))
        return np.concatenate(parts, axis=-1) if parts else np.zeros((*lead, 0), self.dtype)

    def _leaf_array(
        self, value: Any, leaf: gym.Space[Any], path: tuple[str, ...], lead: tuple[int, ...]
    ) -> npt.NDArray[Any]:
        kinds = "fiu" if isinstance(leaf, gym.spaces.Box) else "iu"
        wanted = (*lead, *(leaf.shape or ()))
        try:
            array = np.asarray(value)
        except ValueError as error:  # ragged
            raise ActionError(f"{_called(path)} must be {wanted}, one of {leaf}: {error}.") from error
        if array.shape != wanted or array.dtype.kind not in kinds:
            numbers = "numbers" if "f" in kinds else "integers"
            raise ActionError(f"{_called(path)} must be {wanted} {numbers}, not {array.shape} {array.dtype}.")
        return array

    def _scatter(self, values: npt.NDArray[Any], lead: tuple[int, ...]) -> Any:
        if not isinstance(self.space, gym.spaces.Dict):
            return _in_type_of(values, self.space)
        tree: dict[str, Any] = _empty(self.space)
        begin = 0
        for path, leaf in self._leaves:
            shape = tuple(leaf.shape or ())
            end = begin + int(np.prod(shape, dtype=np.int64))
            part = _in_type_of(values[..., begin:end].reshape(*lead, *shape), leaf)
            branch = tree
            for key in path[:-1]:
                branch = branch[key]
            branch[path[-1]] = part if lead or part.ndim else part[()]
            begin = end
        return tree


def _leaves(space: gym.Space[Any], path: tuple[str, ...]) -> Iterator[_Leaf]:
    if isinstance(space, gym.spaces.Dict):
        for key in sorted(space.spaces):
            yield from _leaves(space.spaces[key], (*path, key))
    elif isinstance(
        space, gym.spaces.Discrete | gym.spaces.MultiDiscrete | gym.spaces.MultiBinary | gym.spaces.Box
    ):
        yield path, space
    else:
        raise ConfigError(
            f"actions of {space} cannot be carried; use Discrete, MultiDiscrete or Box, MultiBinary, or a Dict of them."
        )


def _bounds(leaf: gym.Space[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    low: Any
    high: Any
    if isinstance(leaf, gym.spaces.Discrete):
        low, high = leaf.start, leaf.start + leaf.n - 1
    elif isinstance(leaf, gym.spaces.MultiDiscrete):
        low, high = leaf.start, leaf.start + leaf.nvec - 1
    elif isinstance(leaf, gym.spaces.MultiBinary):
        low, high = np.zeros(leaf.shape), np.ones(leaf.shape)
    else:
        assert isinstance(leaf, gym.spaces.Box)
        low, high = leaf.low, leaf.high
    return np.asarray(low, np.float64), np.asarray(high, np.float64)


def _in_type_of(values: npt.NDArray[Any], leaf: gym.Space[Any]) -> npt.NDArray[Any]:
    assert leaf.dtype is not None
    if leaf.dtype.kind in "iub" and values.dtype.kind == "f":
        values = np.rint(values)
    return values.astype(leaf.dtype)


def _check_keys(actions: Any, space: gym.spaces.Dict, path: tuple[str, ...]) -> None:
    if not isinstance(actions, Mapping):
        raise ActionError(
            f"{_called(path)} must be a dictionary with {', '.join(map(repr, sorted(space.spaces)))}, "
            f"not {type(actions).__name__}."
        )
    missing, unknown = sorted(set(space.spaces) - set(actions)), sorted(set(actions) - set(space.spaces))
    if missing or unknown:
        raise ActionError(
            f"{_called(path)} must have the keys {', '.join(map(repr, sorted(space.spaces)))}"
            + (f"; it lacks {', '.join(map(repr, missing))}" if missing else "")
            + (f"; it has {', '.join(map(repr, unknown))} besides" if unknown else "")
            + "."
        )
    for key, inner in space.spaces.items():
        if isinstance(inner, gym.spaces.Dict):
            _check_keys(actions[key], inner, (*path, key))


def _empty(space: gym.spaces.Dict) -> dict[str, Any]:
    return {
        key: _empty(inner) if isinstance(inner, gym.spaces.Dict) else None for key, inner in sorted(space.spaces.items())
    }


def _called(path: tuple[str, ...]) -> str:
    return f"the action's {'.'.join(path)!r}" if path else "an action"
