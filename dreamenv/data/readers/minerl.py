"""MineRL's recordings: a folder with ``recording.mp4``, ``rendered.npz`` and ``metadata.json``.

The npz holds ``reward`` (n,), ``action$<key>`` (n, ...) and ``observation$<key>`` (n + 1, ...). What stands at i was
done at state i and rewarded with ``reward[i]``: there are n steps and n + 1 states. The video begins earlier: the last
n + 1 of its ``true_video_frame_count`` frames are the states, and the very last is not good, so it is a copy of the one
before, as in MineRL's own loader (``minerl/data/data_pipeline.py``). The last step ends the task, unless the metadata
say that it was not solved: then time ran out.

Actions are a Dict, a key each: whole numbers become Discrete, words (``place``, ``craft``, ...) become Discrete in the
order of `MineRLSettings.words`, or of the alphabet with "none" first, and ``camera`` becomes a Box of -180 to 180
degrees, pitch and yaw. How many numbers and which words there are is read off all recordings that are converted
together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from dreamenv.action_layout import ActionLayout
from dreamenv.data.episode import Episode
from dreamenv.data.files import read_json
from dreamenv.data.provenance import Provenance
from dreamenv.data.readers.arrays import ArrayFile
from dreamenv.data.readers.source import Piece, Sources, check_names, cut
from dreamenv.data.readers.video import Video
from dreamenv.errors import ConfigError, RecordingError

__all__ = ["MineRLSettings", "open_minerl"]

_ACTION = "action$"
_LARGEST_TURN = 180.0  # degrees
_FRAME_RATE = 20.0  # hertz


@dataclass(frozen=True, kw_only=True)
class MineRLSettings:
    """How MineRL's recordings are read.

    Attributes:
        size: height and width of the frames, in pixels; those of the recordings are 64.
        max_steps: longest episode, in steps; a longer recording becomes several. It decides how much is in memory.
        environment: the id of what was recorded, such as "MineRLTreechop-v0".
        words: the words of a key in order, as in "place=none,dirt,stone"; needed where recordings that are added later
            know other words.
    """

    size: int = 64
    max_steps: int = 1000
    environment: str = "MineRL-v0"
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("size", "max_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        self.known_words()

    def known_words(self) -> dict[str, tuple[str, ...]]:
        """Return ``words`` by key.

        Raises:
            ConfigError: an entry of another form.
        """
        known = {}
        for entry in self.words:
            key, equals, listed = entry.partition("=")
            if not (key and equals and listed):
                raise ConfigError(f"words must be given as in 'place=none,dirt,stone', not {entry!r}.")
            known[key] = tuple(word.strip() for word in listed.split(","))
        return known


def open_minerl(paths: Sequence[str | Path], settings: MineRLSettings | None = None) -> Sources:
    """Open recordings by their folders.

    Raises:
        ConfigError: none, or two of one name.
        RecordingError: one cannot be read, or has other keys than the others.
    """
    settings = settings or MineRLSettings()
    folders = [Path(path) for path in paths]
    folders = [folder.parent if folder.is_file() else folder for folder in folders]
    check_names(folders, [folder.name for folder in folders])
    space, words = _action_space(folders, settings)
    layout = ActionLayout(space)
    sources = [_MineRL(path=folder, settings=settings, layout=layout, words=words) for folder in folders]
    provenance = Provenance(
        environment_id=settings.environment,
        environment_kwargs={"format": "minerl", "words": {key: list(value) for key, value in words.items()}},
        frame_size=settings.size,
        resize="area",
        frame_rate=_FRAME_RATE,
    )
    shape = (settings.size, settings.size, 3)
    return Sources(sources=sources, provenance=provenance, action_space=space, frame_shape=shape)


@dataclass(frozen=True, kw_only=True)
class _MineRL:
    path: Path
    settings: MineRLSettings
    layout: ActionLayout
    words: Mapping[str, tuple[str, ...]]

    @property
    def name(self) -> str:
        return self.path.name

    def pieces(self) -> list[Piece]:
        rewards, _ = self._steps
        self._first_state  # noqa: B018 - finds a video that does not go with the steps, before anything is written
        return cut(0, len(rewards), self.settings.max_steps)

    def episodes(self, pieces: Sequence[Piece]) -> Iterator[Episode]:
        if not pieces:
            return
        rewards, actions = self._steps
        end, skipped = len(rewards), self._first_state
        success = self._facts.get("success")
        shape = (self.settings.size, self.settings.size)
        frames = self._video.read(skipped + pieces[0][0], skipped + min(pieces[-1][1], end - 1), shape)
        number, seen = pieces[0][0], next(frames)
        for first, last in pieces:
            strip = np.empty((last - first + 1, *seen.shape), np.uint8)
            for row, wanted in enumerate(range(first, last + 1)):
                while number < min(wanted, end - 1):  # the frame of the last state is not good
                    number, seen = number + 1, next(frames)
                strip[row] = seen
            final = last == end
            yield Episode(
                frames=strip,
                actions=actions[first:last],
                rewards=rewards[first:last],
                terminated=final and success is not False,
                truncated=not (final and success is not False),
                policy=self.name,
                seed=first,
                success=bool(success) if final and success is not None else None,
            )

    def release(self) -> None:
        for name in ("_steps", "_video", "_facts", "_first_state"):
            self.__dict__.pop(name, None)

    @cached_property
    def _video(self) -> Video:
        return Video(self.path / "recording.mp4")

    @cached_property
    def _facts(self) -> dict[str, Any]:
        file = self.path / "metadata.json"
        if not file.is_file():
            return {}
        try:
            return read_json(file)
        except (OSError, ValueError) as error:
            raise RecordingError(f"{file} is damaged: {error}. Download the recording again.") from error

    @cached_property
    def _first_state(self) -> int:
        """The video's frame that shows state 0."""
        rewards, _ = self._steps
        held = self._video.frames
        promised = int(self._facts.get("true_video_frame_count", held))
        if held < promised:
            raise RecordingError(
                f"{self._video.path} holds {held} of the {promised} frames that {self.path / 'metadata.json'} names: "
                "it is cut short. Download the recording again, or leave it out."
            )
        if promised < len(rewards) + 1:
            raise RecordingError(
                f"{self._video.path} has {promised} frames for {len(rewards)} steps, which need {len(rewards) + 1}. "
                "Download the recording again, or leave it out."
            )
        return promised - (len(rewards) + 1)

    @cached_property
    def _steps(self) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Return rewards (n,) and actions (n, a), packed."""
        arrays, space = _arrays(self.path), self.layout.space
        assert isinstance(space, gym.spaces.Dict)
        rewards = arrays.read("reward").astype(np.float32).reshape(-1)
        if not len(rewards):
            raise RecordingError(f"{arrays.path} has no steps. Leave the recording out.")
        entries = {}
        for key, inner in space.spaces.items():
            values = arrays.read(_ACTION + key)
            if len(values) != len(rewards):
                raise RecordingError(
                    f"{arrays.path} has {len(values)} values of {_ACTION + key!r} for {len(rewards)} rewards. Download "
                    "the recording again, or leave it out."
                )
            if key in self.words:
                known = {word: number for number, word in enumerate(self.words[key])}
                values = np.array([known[str(word)] for word in values])
            if isinstance(inner, gym.spaces.Box):
                values = np.clip(values, inner.low, inner.high)
            entries[key] = values if isinstance(inner, gym.spaces.Box) else values.astype(np.int64)
        return rewards, self.layout.pack_rows(entries)


def _action_space(
    folders: Sequence[Path], settings: MineRLSettings
) -> tuple[gym.spaces.Dict, dict[str, tuple[str, ...]]]:
    """Look through all recordings for the keys, how far their numbers go, and which words they use."""
    most: dict[str, int] = {}
    found: dict[str, set[str]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    keys: set[str] | None = None
    for folder in folders:
        arrays = _arrays(folder)
        here = {name.removeprefix(_ACTION) for name in arrays.keys if name.startswith(_ACTION)}
        keys = here if keys is None else keys
        if not here or here != keys:
            raise RecordingError(
                f"{arrays.path} has the actions {sorted(here)}, the others {sorted(keys)}; convert recordings of "
                "different tasks into different datasets."
            )
        for key in here:
            values = arrays.read(_ACTION + key)
            if values.dtype.kind in "US":
                found.setdefault(key, set()).update(str(word) for word in np.unique(values))
            elif values.dtype.kind == "f":
                shapes[key] = values.shape[1:]
            elif values.dtype.kind in "iub" and values.ndim == 1 and (not len(values) or values.min() >= 0):
                most[key] = max(most.get(key, 1), int(values.max(initial=0)))
            else:
                raise RecordingError(
                    f"{arrays.path} holds {_ACTION + key!r} as {values.shape} {values.dtype}, which no MineRL "
                    "recording has."
                )
    words = {key: _ordered(key, used, settings) for key, used in found.items()}
    parts: dict[str, gym.Space[Any]] = {key: gym.spaces.Discrete(number + 1) for key, number in most.items()}
    parts |= {key: gym.spaces.Discrete(len(known)) for key, known in words.items()}
    parts |= {key: gym.spaces.Box(-_LARGEST_TURN, _LARGEST_TURN, shape, np.float32) for key, shape in shapes.items()}
    return gym.spaces.Dict(dict(sorted(parts.items()))), words


def _ordered(key: str, used: set[str], settings: MineRLSettings) -> tuple[str, ...]:
    known = settings.known_words().get(key)
    if known is None:
        return tuple(sorted(used, key=lambda word: (word != "none", word)))
    unknown = sorted(used - set(known))
    if unknown:
        raise ConfigError(f"the words of {key!r} lack {', '.join(unknown)}, which the recordings use; add them.")
    return known


def _arrays(folder: Path) -> ArrayFile:
    return ArrayFile(folder / "rendered.npz", "a MineRL recording (a folder with recording.mp4 and rendered.npz)")
