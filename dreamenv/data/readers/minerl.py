"""Read MineRL's recordings: a folder with ``recording.mp4``, ``rendered.npz`` and ``metadata.json``.

The npz holds ``reward`` (n,), ``action$<key>`` (n, ...) and ``observation$<key>`` (n + 1, ...). Action i was
taken at state i and rewarded with ``reward[i]``: there are n steps and n + 1 states. The video starts earlier: the last
n + 1 of its ``true_video_frame_count`` frames are the states. The very last frame is not usable, so the one before is
repeated, as in MineRL's own loader (``minerl/data/data_pipeline.py``). The last step terminates the episode, unless the
metadata say that the task was not solved: then it is truncated.

Actions are a Dict: integers become Discrete; strings (MineRL's Enum: ``place``, ``craft``, ...) become Discrete in the
order of `MineRLSettings.enum_values`, or else in alphabetical order with "none" first; ``camera`` becomes a Box of -180
to 180 degrees, pitch and yaw. The ranges and values are those of all recordings that are converted together.
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
from dreamenv.data.checks import check_rewards
from dreamenv.data.episode import Episode
from dreamenv.data.provenance import Provenance
from dreamenv.data.readers.minerl_actions import ACTION, ActionSpaceBuilder, arrays_of
from dreamenv.data.readers.source import Segment, Sources, check_names, open_all, settings_facts, split_segments
from dreamenv.data.readers.video import Video, split_frames
from dreamenv.errors import ConfigError, RecordingError
from dreamenv.storage import read_json

__all__ = ["MineRLSettings", "open_minerl"]

_FRAME_RATE = 20.0  # hertz


@dataclass(frozen=True, kw_only=True)
class MineRLSettings:
    """How to read MineRL's recordings.

    Attributes:
        size: height and width of the frames, in pixels; those of the recordings are 64.
        max_steps: the most steps of an episode; a longer recording becomes several. Memory use grows with it.
        environment: the id of what was recorded, such as "MineRLTreechop-v0".
        enum_values: the values of an Enum in order, as in "place=none,dirt,stone"; needed if recordings that are added
            later use other values.
    """

    size: int = 64
    max_steps: int = 1000
    environment: str = "MineRL-v0"
    enum_values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("size", "max_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        self.known_enum_values()

    def known_enum_values(self) -> dict[str, tuple[str, ...]]:
        """Return ``enum_values`` by key.

        Raises:
            ConfigError: an entry does not have the form "key=value,value".
        """
        known = {}
        for entry in self.enum_values:
            key, equals, listed = entry.partition("=")
            if not (key and equals and listed):
                raise ConfigError(f"enum_values must be given as in 'place=none,dirt,stone', not {entry!r}.")
            known[key] = tuple(word.strip() for word in listed.split(","))
        return known


def open_minerl(
    paths: Sequence[str | Path], settings: MineRLSettings | None = None, *, skip_damaged: bool = False
) -> Sources:
    """Open recordings by their folders, or by a file in each.

    Args:
        paths: the folders.
        settings: how to read them.
        skip_damaged: skip recordings that cannot be read.

    Raises:
        ConfigError: there are no paths, or two recordings of one name.
        RecordingError: a recording cannot be read, or has other action keys than the others.
    """
    settings = settings or MineRLSettings()
    folders = [Path(path) for path in paths]
    folders = [folder.parent if folder.is_file() else folder for folder in folders]
    check_names(folders, [folder.name for folder in folders])
    builder = ActionSpaceBuilder()
    good, damaged = open_all(folders, builder.add, skip_damaged=skip_damaged)
    enum_values = builder.enum_values(settings.known_enum_values())
    layout = ActionLayout(builder.space(enum_values))
    sources = [_MineRL(path=folder, settings=settings, layout=layout, enum_values=enum_values) for folder in good]
    provenance = Provenance(
        environment_id=settings.environment,
        environment_kwargs={
            **settings_facts("minerl", settings),
            "enum_values": {key: list(value) for key, value in enum_values.items()},
        },
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
    enum_values: Mapping[str, tuple[str, ...]]

    @property
    def name(self) -> str:
        return self.path.name

    def segments(self) -> list[Segment]:
        rewards, _ = self._steps
        self._first_state  # noqa: B018 - finds a video that does not go with the steps, before anything is written
        return split_segments(0, len(rewards), self.settings.max_steps)

    def episodes(self, segments: Sequence[Segment]) -> Iterator[Episode]:
        if not segments:
            return
        rewards, actions = self._steps
        end, skipped = len(rewards), self._first_state
        success = self._facts.get("success")
        shape = (self.settings.size, self.settings.size)
        frames = self._video.read(skipped + segments[0][0], skipped + min(segments[-1][1], end - 1), shape)
        for (first, last), clip in split_frames(frames, segments, last=end - 1):  # the last frame is not usable
            final = last == end
            yield Episode(
                frames=clip,
                actions=actions[first:last],
                rewards=rewards[first:last],
                terminated=final and success is not False,
                truncated=not (final and success is not False),
                at_episode_start=first == 0,
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
        for name, kind in (("success", bool), ("true_video_frame_count", int)):
            if type(facts.get(name)) not in (kind, type(None)):
                raise RecordingError(
                    f"{name!r} in {file} is {facts[name]!r}, which no MineRL recording has. Download it again."
                )
        return facts

    @cached_property
    def _first_state(self) -> int:
        """The number of the video's frame of state 0."""
        rewards, _ = self._steps
        held = self._video.frames
        promised = self._facts.get("true_video_frame_count")
        promised = held if promised is None else promised
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
        """Return rewards (n,) and packed actions (n, a)."""
        arrays, space = arrays_of(self.path), self.layout.space
        assert isinstance(space, gym.spaces.Dict)
        rewards = check_rewards(arrays.read("reward").reshape(-1))
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
            if key in self.enum_values:
                known = {word: number for number, word in enumerate(self.enum_values[key])}
                values = np.array([known[str(word)] for word in values])
            if isinstance(inner, gym.spaces.Box):
                if not np.isfinite(values).all():
                    raise RecordingError(
                        f"{ACTION + key!r} in {arrays.path} holds NaN or infinite values. Correct it, or leave it out."
                    )
                values = np.clip(values, inner.low, inner.high)
            entries[key] = values if isinstance(inner, gym.spaces.Box) else values.astype(np.int64)
        return rewards, self.layout.pack_rows(entries)
