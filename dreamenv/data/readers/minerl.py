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
from dreamenv.data.provenance import Provenance
from dreamenv.data.readers.minerl_actions import ACTION, ActionSurvey, arrays_of
from dreamenv.data.readers.source import Piece, Sources, check_names, cut, open_each
from dreamenv.data.readers.video import Video, strips
from dreamenv.errors import ConfigError, RecordingError
from dreamenv.storage import read_json

__all__ = ["MineRLSettings", "open_minerl"]

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


def open_minerl(
    paths: Sequence[str | Path], settings: MineRLSettings | None = None, *, skip_damaged: bool = False
) -> Sources:
    """Open recordings by their folders, or by a file in each.

    Args:
        paths: the folders.
        settings: how they are read.
        skip_damaged: go on after one that cannot be read.

    Raises:
        ConfigError: none, or two of one name.
        RecordingError: one cannot be read, or has other keys than the others.
    """
    settings = settings or MineRLSettings()
    folders = [Path(path) for path in paths]
    folders = [folder.parent if folder.is_file() else folder for folder in folders]
    check_names(folders, [folder.name for folder in folders])
    survey = ActionSurvey()
    good, damaged = open_each(folders, survey.look, skip_damaged=skip_damaged)
    words = survey.words(settings.known_words())
    layout = ActionLayout(survey.space(words))
    sources = [_MineRL(path=folder, settings=settings, layout=layout, words=words) for folder in good]
    provenance = Provenance(
        environment_id=settings.environment,
        environment_kwargs={"format": "minerl", "words": {key: list(value) for key, value in words.items()}},
        frame_size=settings.size,
        resize="area",
        frame_rate=_FRAME_RATE,
    )
    return Sources(
        sources=sources,
        provenance=provenance,
        action_space=layout.space,
        frame_shape=(settings.size, settings.size, 3),
        skip_damaged=skip_damaged,
        damaged=damaged,
    )


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
        for (first, last), strip in strips(frames, pieces, last=end - 1):  # the last state's own frame is not good
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
        facts: dict[str, Any] = read_json(file, RecordingError, "Download the recording again.")
        return facts

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
        arrays, space = arrays_of(self.path), self.layout.space
        assert isinstance(space, gym.spaces.Dict)
        rewards = arrays.read("reward").astype(np.float32).reshape(-1)
        if not len(rewards):
            raise RecordingError(f"{arrays.path} has no steps. Leave the recording out.")
        entries = {}
        for key, inner in space.spaces.items():
            values = arrays.read(ACTION + key)
            if len(values) != len(rewards):
                raise RecordingError(
                    f"{arrays.path} has {len(values)} values of {ACTION + key!r} for {len(rewards)} rewards. Download "
                    "the recording again, or leave it out."
                )
            if key in self.words:
                known = {word: number for number, word in enumerate(self.words[key])}
                values = np.array([known[str(word)] for word in values])
            if isinstance(inner, gym.spaces.Box):
                values = np.clip(values, inner.low, inner.high)
            entries[key] = values if isinstance(inner, gym.spaces.Box) else values.astype(np.int64)
        return rewards, self.layout.pack_rows(entries)
