"""Read plain npz files: one array for frames, one for actions, ..., and one row per time step.

There are two conventions for the action of a row. With the wrong one every action is off by one frame, so
`NpzSettings.actions_are` names them:

- ``arrived`` (Dreamer, DrQ-v2, iVideoGPT): row i has a frame, and the action and reward that **led to** it. The action
  and reward of the first row have no meaning.
- ``taken`` (robomimic, D4RL): row i has a frame, and the action that was **taken at** it, its reward and whether it
  ended the task. No row shows the frame that an episode's last action led to. If that action was rewarded or ended the
  task, the step is kept and the last frame repeated, as in MineRL's recordings; otherwise the step is left out.

If there is one more frame than actions, the order is clear and the setting is not used.

Frames are (n, h, w, c) or (n, c, h, w) uint8: grey, RGB, or RGBA without its alpha. Of frames that are stacked along
the channels (`NpzSettings.stack`) the last, newest one is kept. A file's arrays are in memory while it is read.
"""

from __future__ import annotations

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
from dreamenv.data.readers.source import Segment, Sources, check_names, open_all, settings_facts, split_segments
from dreamenv.data.readers.video import resize
from dreamenv.errors import RecordingError

__all__ = ["open_npz"]


def open_npz(
    paths: Sequence[str | Path], settings: NpzSettings | None = None, *, skip_damaged: bool = False
) -> Sources:
    """Open npz files.

    Args:
        paths: the files.
        settings: how to read them.
        skip_damaged: skip files that cannot be read.

    Raises:
        ConfigError: there are no paths, or two files of one name.
        RecordingError: a file cannot be read, lacks an array, or differs from the files before in shape or kind.
    """
    settings = settings or NpzSettings()
    files = [Path(path) for path in paths]
    check_names(files, [file.stem for file in files])
    builder = _ActionSpaceBuilder(settings)
    opened, damaged = open_all(files, builder.add, skip_damaged=skip_damaged)
    space, shape = builder.action_space(), opened[0].frame_shape
    provenance = Provenance(
        environment_id=settings.environment,
        environment_kwargs={**settings_facts("npz", settings), "arrays": opened[0].arrays},
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


class _ActionSpaceBuilder:
    """Infers the action space of all files, and checks that their frames have one shape."""

    def __init__(self, settings: NpzSettings) -> None:
        self._settings = settings
        self._first: Rows | None = None
        self._kind = ""
        self._low: NDArray[Any] = np.zeros(0)
        self._high: NDArray[Any] = np.zeros(0)

    def add(self, file: Path) -> Rows:
        """Add a file.

        Raises:
            RecordingError: it cannot be read, or differs from the files before in shape or kind.
        """
        rows = Rows(ArrayFile(file), self._settings)
        if self._first is not None and rows.frame_shape != self._first.frame_shape:
            raise RecordingError(
                f"{self._first.file.path} has frames of {self._first.frame_shape}, {file} of {rows.frame_shape}; give "
                "a size, or convert them into different datasets."
            )
        if self._first is not None and rows.arrays != self._first.arrays:
            raise RecordingError(
                f"{self._first.file.path} has {self._first.arrays} beside frames and actions, {file} {rows.arrays}; "
                "name the arrays with keys, or convert them into different datasets."
            )
        values = rows.read_actions()[rows.used()]
        kind = "f" if values.dtype.kind == "f" else "i" if values.dtype.kind in "iub" else values.dtype.kind
        if kind not in ("f", "i") or not values.size:
            raise RecordingError(f"the actions of {file} are {values.shape} {values.dtype}; they must be numbers.")
        low, high = values.min(axis=0), values.max(axis=0)
        if self._first is None:
            self._kind, self._low, self._high = kind, low, high
        if kind != self._kind or low.shape != self._low.shape or not _held(low, high):
            raise RecordingError(
                f"the actions of {file} are {values.shape} {values.dtype}, from {low} to {high}; they must be finite "
                "numbers that float32 or int32 holds, and of one kind in all files."
            )
        if kind == "i" and low.min() < 0:
            raise RecordingError(f"the actions of {file} go down to {low.min()}; integer actions must count from 0.")
        if self._settings.one_hot and (low.ndim != 1 or len(low) < 2):
            raise RecordingError(f"the actions of {file} are {values.shape}, which is not one-hot; leave out one_hot.")
        if self._settings.one_hot and not (((values == 0) | (values == 1)).all() and (values.sum(axis=1) == 1).all()):
            raise RecordingError(f"the actions of {file} are not one-hot: a row is not a single 1 among zeros.")
        self._first = self._first or rows
        self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)
        return rows

    def action_space(self) -> gym.Space[Any]:
        """Return the action space of all files."""
        settings, low, high = self._settings, self._low, self._high
        if settings.one_hot:
            return gym.spaces.Discrete(len(low))
        if self._kind == "i":
            counts = high.astype(np.int64) + 1
            return gym.spaces.Discrete(int(counts.item())) if counts.size == 1 else gym.spaces.MultiDiscrete(counts)
        if settings.low is not None and settings.high is not None:
            return gym.spaces.Box(settings.low, settings.high, low.shape, np.float32)
        high = np.where(high > low, high, low + 1)  # a value that never changes must not have an empty range
        return gym.spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def _held(*values: NDArray[Any]) -> bool:
    """Return whether these are finite, and within what actions are stored in."""
    most = [np.iinfo(np.int32).max if value.dtype.kind in "iub" else np.finfo(np.float32).max for value in values]
    return all(
        bool((np.abs(value.astype(np.float64)) <= limit).all()) for value, limit in zip(values, most, strict=True)
    )


@dataclass(frozen=True, kw_only=True)
class _Npz:
    rows: Rows
    space: gym.Space[Any]

    @property
    def path(self) -> Path:
        return self.rows.file.path

    @property
    def name(self) -> str:
        return self.path.stem

    def release(self) -> None:
        """Do nothing: no arrays are kept."""

    def segments(self) -> list[Segment]:
        max_steps = self.rows.settings.max_steps
        return [segment for first, last in self.rows.episodes for segment in split_segments(first, last, max_steps)]

    def episodes(self, segments: Sequence[Segment]) -> Iterator[Episode]:
        if not segments:
            return
        rows = self.rows
        frames, actions = rows.read_frames(), _in_space(rows, self.space)
        rewards, terminated, captions = rows.read_rewards(), rows.read_terminated(), rows.read_captions()
        starts = {first for first, _ in rows.episodes}
        for first, last in segments:
            shown = np.arange(first, last + 1)
            if last in rows.unseen:
                shown[-1] = last - 1
            yield Episode(
                frames=_resize_frames(frames[shown], rows.frame_shape),
                actions=actions[first:last],
                rewards=rewards[first:last],
                terminated=bool(terminated[last - 1]),
                truncated=not terminated[last - 1],
                at_episode_start=first in starts,
                policy=self.name,
                seed=first,
                captions=None if captions is None else tuple(captions[first:last]),
            )


def _in_space(rows: Rows, space: gym.Space[Any]) -> NDArray[Any]:
    values = rows.read_actions()
    if isinstance(space, gym.spaces.Box):
        clipped: NDArray[Any] = np.clip(values, space.low, space.high).astype(np.float32)
        return clipped
    if rows.settings.one_hot:
        chosen: NDArray[np.int64] = values.argmax(axis=-1).astype(np.int64)
        return chosen
    return values.reshape(len(values), *(space.shape or ())).astype(np.int64)


def _resize_frames(frames: NDArray[np.uint8], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    height, width, channels = shape
    if frames.shape[1:3] == (height, width):
        return np.ascontiguousarray(frames)
    planes = frames if channels > 1 else frames[..., 0]
    return np.stack([resize(np.ascontiguousarray(plane), (height, width)) for plane in planes]).reshape(-1, *shape)
