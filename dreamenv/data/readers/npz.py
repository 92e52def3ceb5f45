"""Plain npz files: one array per thing, one row per time step.

Two habits exist for what a row's action is, and confusing them is fatal, so both have a name:

- ``arrived`` (Dreamer, DrQ-v2, iVideoGPT): row i holds the frame, and the action and reward that **led to** it. The
  first row's action and reward mean nothing.
- ``taken`` (robomimic, D4RL): row i holds the frame, and the action that was **taken at** it and its reward. Without a
  frame more than actions, the last row's action leads nowhere.

If there is one frame more than actions, nothing is ambiguous and the habit is not asked for.

Frames are (n, h, w, c) or (n, c, h, w) uint8. If they hold several stacked pictures (9 channels for three of RGB, 4 for
four of grey), the last, newest one is kept. A file's arrays are in memory while it is read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from dreamenv.data.episode import Episode
from dreamenv.data.provenance import Provenance
from dreamenv.data.readers.arrays import ArrayFile
from dreamenv.data.readers.npz_rows import NpzSettings, Rows
from dreamenv.data.readers.source import Piece, Sources, check_names, cut, open_each
from dreamenv.data.readers.video import shrink
from dreamenv.errors import RecordingError

__all__ = ["open_npz"]


def open_npz(
    paths: Sequence[str | Path], settings: NpzSettings | None = None, *, skip_damaged: bool = False
) -> Sources:
    """Open npz files.

    Args:
        paths: the files.
        settings: how they are read.
        skip_damaged: go on after one that cannot be read.

    Raises:
        ConfigError: none, or two of one name.
        RecordingError: one cannot be read, lacks a key, or does not go with those before it.
    """
    settings = settings or NpzSettings()
    files = [Path(path) for path in paths]
    check_names(files, [file.stem for file in files])
    survey = _Survey(settings)
    opened, damaged = open_each(files, survey.look, skip_damaged=skip_damaged)
    space, shape = survey.action_space(), opened[0].frame_shape
    provenance = Provenance(
        environment_id=settings.environment,
        environment_kwargs={"format": "npz"},
        frame_size=(shape[0], shape[1]),
        resize="area",
        frame_rate=settings.frame_rate,
    )
    return Sources(
        sources=[_Npz(rows=rows, space=space) for rows in opened],
        provenance=provenance,
        action_space=space,
        frame_shape=shape,
        skip_damaged=skip_damaged,
        damaged=damaged,
    )


class _Survey:
    """Finds what the files have in common: the size of their frames, and the space that all actions lie in."""

    def __init__(self, settings: NpzSettings) -> None:
        self._settings = settings
        self._first: Rows | None = None
        self._kind = ""
        self._least: NDArray[Any] = np.zeros(0)
        self._most: NDArray[Any] = np.zeros(0)

    def look(self, file: Path) -> Rows:
        """Take in one file.

        Raises:
            RecordingError: it cannot be read, or does not go with those before it.
        """
        rows = Rows(ArrayFile(file), self._settings)
        if self._first is not None and rows.frame_shape != self._first.frame_shape:
            raise RecordingError(
                f"{self._first.file.path} has frames of {self._first.frame_shape}, {file} of {rows.frame_shape}; give "
                "a size, or convert them into different datasets."
            )
        values = rows.actions()
        kind = "f" if values.dtype.kind == "f" else "i" if values.dtype.kind in "iub" else values.dtype.kind
        low, high = values.min(axis=0), values.max(axis=0)
        if self._first is None:
            self._kind, self._least, self._most = kind, low, high
        if kind not in "fi" or kind != self._kind or low.shape != self._least.shape or not _finite(low, high):
            raise RecordingError(
                f"the actions of {file} are {values.shape} {values.dtype}, from {low} to {high}; they must be finite "
                "numbers, and of one kind in all files."
            )
        if kind == "i" and low.min() < 0:
            raise RecordingError(f"the actions of {file} go down to {low.min()}; whole ones count from 0.")
        if self._settings.one_hot and (low.ndim != 1 or len(low) < 2):
            raise RecordingError(
                f"the actions of {file} are {values.shape}, which are no indicators; leave out one_hot."
            )
        self._first = self._first or rows
        self._least, self._most = np.minimum(self._least, low), np.maximum(self._most, high)
        return rows

    def action_space(self) -> gym.Space[Any]:
        """Return the space that all actions lie in."""
        settings, least, most = self._settings, self._least, self._most
        if settings.one_hot:
            return gym.spaces.Discrete(len(least))
        if self._kind == "i":
            counts = most.astype(np.int64) + 1
            return gym.spaces.Discrete(int(counts.item())) if counts.size == 1 else gym.spaces.MultiDiscrete(counts)
        if settings.low is not None and settings.high is not None:
            return gym.spaces.Box(settings.low, settings.high, least.shape, np.float32)
        most = np.where(most > least, most, least + 1)  # a value that never changed must not have an empty range
        return gym.spaces.Box(least.astype(np.float32), most.astype(np.float32), dtype=np.float32)


def _finite(*values: NDArray[Any]) -> bool:
    return all(value.dtype.kind not in "fc" or bool(np.isfinite(value).all()) for value in values)


@dataclass(frozen=True, kw_only=True)
class _Npz:
    rows: Rows
    space: gym.Space[Any]

    @property
    def name(self) -> str:
        return self.rows.file.path.stem

    def release(self) -> None:
        """Nothing is remembered but shapes."""

    def pieces(self) -> list[Piece]:
        begins, longest = [*self.rows.begins(), self.rows.frames], self.rows.settings.max_steps
        return [piece for first, end in itertools.pairwise(begins) for piece in cut(first, end - 1, longest)]

    def episodes(self, pieces: Sequence[Piece]) -> Iterator[Episode]:
        if not pieces:
            return
        rows = self.rows
        pictures, actions = rows.pictures(), _in_space(rows, self.space)
        rewards, ends = rows.rewards(), rows.ends()
        for first, last in pieces:
            yield Episode(
                frames=_small(pictures[first : last + 1], rows.frame_shape),
                actions=actions[first:last],
                rewards=rewards[first:last],
                terminated=bool(ends[last - 1]),
                truncated=not ends[last - 1],
                policy=self.name,
                seed=first,
            )


def _in_space(rows: Rows, space: gym.Space[Any]) -> NDArray[Any]:
    values = rows.actions()
    if isinstance(space, gym.spaces.Box):
        clipped: NDArray[Any] = np.clip(values, space.low, space.high).astype(np.float32)
        return clipped
    if rows.settings.one_hot:
        chosen: NDArray[np.int64] = values.argmax(axis=-1).astype(np.int64)
        return chosen
    return values.reshape(len(values), *(space.shape or ())).astype(np.int64)


def _small(pictures: NDArray[np.uint8], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    height, width, channels = shape
    if pictures.shape[1:3] == (height, width):
        return np.ascontiguousarray(pictures)
    planes = pictures if channels > 1 else pictures[..., 0]
    return np.stack([shrink(np.ascontiguousarray(plane), (height, width)) for plane in planes]).reshape(-1, *shape)
