"""Infer the action space of MineRL's recordings, which no file contains, from all recordings of a conversion."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from dreamenv.data.readers.arrays import ArrayFile
from dreamenv.errors import ConfigError, RecordingError

__all__ = ["ACTION", "ActionSpaceBuilder", "arrays_of"]

ACTION = "action$"
"""Prefix of the names of action arrays."""

_LARGEST_TURN = 180.0  # degrees


class ActionSpaceBuilder:
    """Collects the keys of actions, the ranges of integers and the values of Enums over recordings."""

    def __init__(self) -> None:
        self._keys: set[str] | None = None
        self._largest: dict[str, int] = {}
        self._used: dict[str, set[str]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._forms: dict[str, str] = {}

    def add(self, folder: Path) -> Path:
        """Add a recording; return its folder.

        Raises:
            RecordingError: it cannot be read, or has other keys than the recordings before.
        """
        arrays = arrays_of(folder)
        here = {name.removeprefix(ACTION) for name in arrays.keys if name.startswith(ACTION)}
        if not here:
            raise RecordingError(
                f"{arrays.path} has no array whose name begins with {ACTION!r}, so it is no MineRL recording."
            )
        if self._keys is not None and here != self._keys:
            raise RecordingError(
                f"{arrays.path} has the actions {sorted(here)}, and those before {sorted(self._keys)}; convert "
                "recordings of different tasks into different datasets."
            )
        largest: dict[str, int] = {}
        used: dict[str, set[str]] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        forms: dict[str, str] = {}
        for key in here:
            values = arrays.read(ACTION + key)
            if values.dtype.kind in "US" and values.ndim == 1:
                used[key], forms[key] = {str(word) for word in np.unique(values)}, "words"
            elif values.dtype.kind == "f":
                shapes[key], forms[key] = values.shape[1:], f"real numbers {values.shape[1:]}"
            elif values.dtype.kind in "iub" and values.ndim == 1 and values.min(initial=0) >= 0:
                largest[key], forms[key] = int(values.max(initial=1)), "whole numbers"
            else:
                raise RecordingError(
                    f"{arrays.path} holds {ACTION + key!r} as {values.shape} {values.dtype}, or negative whole "
                    "numbers, which no MineRL recording has."
                )
            if forms[key] != self._forms.get(key, forms[key]):
                raise RecordingError(
                    f"{arrays.path} holds {ACTION + key!r} as {forms[key]}, and those before as {self._forms[key]}; "
                    "convert recordings of different tasks into different datasets."
                )
        self._keys, self._forms = here, forms
        self._shapes.update(shapes)
        for key, number in largest.items():
            self._largest[key] = max(self._largest.get(key, 1), number)
        for key, names in used.items():
            self._used.setdefault(key, set()).update(names)
        return folder

    def enum_values(self, known: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """Return the values of each Enum, in the known order, or else in alphabetical order with "none" first.

        Raises:
            ConfigError: a recording uses a value that is not among the known ones.
        """
        ordered = {}
        for key, used in self._used.items():
            ordered[key] = known.get(key) or tuple(sorted(used, key=lambda word: (word != "none", word)))
            unknown = sorted(used - set(ordered[key]))
            if unknown:
                raise ConfigError(
                    f"the values of {key!r} lack {', '.join(unknown)}, which occur in the recordings; add them."
                )
        return ordered

    def space(self, enum_values: Mapping[str, tuple[str, ...]]) -> gym.spaces.Dict:
        """Return the space of one action."""
        parts: dict[str, gym.Space[Any]] = {
            **{key: gym.spaces.Discrete(number + 1) for key, number in self._largest.items()},
            **{key: gym.spaces.Discrete(len(known)) for key, known in enum_values.items()},
            **{
                key: gym.spaces.Box(-_LARGEST_TURN, _LARGEST_TURN, shape, np.float32)
                for key, shape in self._shapes.items()
            },
        }
        return gym.spaces.Dict(dict(sorted(parts.items())))


def arrays_of(folder: Path) -> ArrayFile:
    """Open the arrays of a recording."""
    return ArrayFile(folder / "rendered.npz", "a MineRL recording (a folder with recording.mp4 and rendered.npz)")
