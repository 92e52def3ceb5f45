"""The action space of MineRL's recordings, which no file tells: it is read off all that are converted together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from dreamenv.data.readers.arrays import ArrayFile
from dreamenv.errors import ConfigError, RecordingError

__all__ = ["ACTION", "ActionSurvey", "arrays_of"]

ACTION = "action$"
"""What the names of the arrays of actions begin with."""

_LARGEST_TURN = 180.0  # degrees


class ActionSurvey:
    """Looks through recordings for the keys of their actions, how far the numbers go, and which words they use."""

    def __init__(self) -> None:
        self._keys: set[str] | None = None
        self._most: dict[str, int] = {}
        self._used: dict[str, set[str]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def look(self, folder: Path) -> Path:
        """Take in one recording; return its folder.

        Raises:
            RecordingError: it cannot be read, or has other keys than those before it.
        """
        arrays = arrays_of(folder)
        here = {name.removeprefix(ACTION) for name in arrays.keys if name.startswith(ACTION)}
        if not here:
            raise RecordingError(
                f"{arrays.path} has no array whose name begins with {ACTION!r}: it is of another kind."
            )
        if self._keys is not None and here != self._keys:
            raise RecordingError(
                f"{arrays.path} has the actions {sorted(here)}, those before it {sorted(self._keys)}; convert "
                "recordings of different tasks into different datasets."
            )
        most: dict[str, int] = {}
        used: dict[str, set[str]] = {}
        for key in here:
            values = arrays.read(ACTION + key)
            if values.dtype.kind in "US":
                used[key] = {str(word) for word in np.unique(values)}
            elif values.dtype.kind == "f":
                self._shapes[key] = values.shape[1:]
            elif values.dtype.kind in "iub" and values.ndim == 1 and values.min(initial=0) >= 0:
                most[key] = int(values.max(initial=1))
            else:
                raise RecordingError(
                    f"{arrays.path} holds {ACTION + key!r} as {values.shape} {values.dtype}, from {values.min()}, "
                    "which no MineRL recording has."
                )
        self._keys = here
        for key, number in most.items():
            self._most[key] = max(self._most.get(key, 1), number)
        for key, words in used.items():
            self._used.setdefault(key, set()).update(words)
        return folder

    def words(self, known: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """Return the words of each key that has words, in order: as they are known, or "none" first, then the alphabet.

        Raises:
            ConfigError: a recording uses a word that is not among the known ones.
        """
        ordered = {}
        for key, used in self._used.items():
            ordered[key] = known.get(key) or tuple(sorted(used, key=lambda word: (word != "none", word)))
            unknown = sorted(used - set(ordered[key]))
            if unknown:
                raise ConfigError(
                    f"the words of {key!r} lack {', '.join(unknown)}, which the recordings use; add them."
                )
        return ordered

    def space(self, words: Mapping[str, tuple[str, ...]]) -> gym.spaces.Dict:
        """Return the space of one action."""
        parts: dict[str, gym.Space[Any]] = {
            **{key: gym.spaces.Discrete(number + 1) for key, number in self._most.items()},
            **{key: gym.spaces.Discrete(len(known)) for key, known in words.items()},
            **{
                key: gym.spaces.Box(-_LARGEST_TURN, _LARGEST_TURN, shape, np.float32)
                for key, shape in self._shapes.items()
            },
        }
        return gym.spaces.Dict(dict(sorted(parts.items())))


def arrays_of(folder: Path) -> ArrayFile:
    """Open a recording's arrays."""
    return ArrayFile(folder / "rendered.npz", "a MineRL recording (a folder with recording.mp4 and rendered.npz)")
