"""The interface of all readers: sources, which know their segments before they read any frame.

A *segment* is a range of consecutive steps of one source that becomes one episode. The segments depend only on the
actions and the settings, so a conversion that was interrupted resumes where it stopped, and reads no frame twice.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import gymnasium as gym

from dreamenv.data.episode import Episode
from dreamenv.data.provenance import Provenance
from dreamenv.errors import ConfigError, RecordingError

__all__ = ["Segment", "Source", "Sources", "check_names", "open_all", "settings_facts", "split_segments"]

Opened = TypeVar("Opened")

Segment = tuple[int, int]
"""(first, last): the numbers of its first and last frame; it has last - first steps."""


class Source(Protocol):
    """A recorded file, or a folder of files that belong together."""

    @property
    def path(self) -> Path:
        """The file or the folder."""
        ...

    @property
    def name(self) -> str:
        """The name that its episodes get as policy; unique among the sources of a conversion."""
        ...

    def segments(self) -> list[Segment]:
        """Return the segments, in order."""
        ...

    def episodes(self, segments: Sequence[Segment]) -> Iterator[Episode]:
        """Read some of the segments, in order, an episode for each.

        Raises:
            RecordingError: the source is damaged; the episodes before were read.
            EpisodeError: an episode holds what none may, such as a reward that is not finite.
        """
        ...

    def release(self) -> None:
        """Free the memory of what was read; it is read again if needed."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Sources that go into one dataset.

    Attributes:
        sources: in the order in which they are read.
        provenance: of what they recorded.
        action_space: of all of them.
        frame_shape: (h, w, c) of their frames.
        skip_damaged: whether to skip sources that cannot be read.
        damaged: the errors of sources that could not be opened.
    """

    sources: Sequence[Source]
    provenance: Provenance
    action_space: gym.Space[Any]
    frame_shape: tuple[int, int, int]
    skip_damaged: bool = False
    damaged: tuple[RecordingError, ...] = ()


def settings_facts(file_format: str, settings: Any) -> dict[str, Any]:
    """Return what a provenance keeps of a reader: its format and every setting, since each changes the episodes.

    The id of the environment and the frame rate have places of their own in a provenance.
    """
    facts = dataclasses.asdict(settings)
    return {"format": file_format, **{k: v for k, v in facts.items() if k not in ("environment", "frame_rate")}}


def split_segments(first: int, last: int, max_steps: int) -> list[Segment]:
    """Split a range of frames into segments of at most ``max_steps`` steps; neighbours share a frame."""
    return [(begin, min(begin + max_steps, last)) for begin in range(first, last, max_steps)]


def check_names(paths: Sequence[Path], names: Sequence[str]) -> None:
    """Check that there are sources, and that their names are unique.

    Raises:
        ConfigError: there are none, or two have one name; the message names both.
    """
    if not paths:
        raise ConfigError("there is nothing to convert; name at least one recording.")
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        both = [str(path) for path, name in zip(paths, names, strict=True) if name == doubled[0]]
        raise ConfigError(
            f"{' and '.join(both)} have the same name, {doubled[0]!r}; rename one, or convert it into another dataset."
        )


def open_all(
    paths: Sequence[Path], opener: Callable[[Path], Opened], *, skip_damaged: bool
) -> tuple[list[Opened], tuple[RecordingError, ...]]:
    """Open files one after another.

    Args:
        paths: the files.
        opener: opens a file.
        skip_damaged: skip files that cannot be opened, unless all of them cannot.

    Returns:
        The opened files, and the errors of the others.

    Raises:
        RecordingError: a file cannot be opened.
    """
    opened, damaged = [], []
    for path in paths:
        try:
            opened.append(opener(path))
        except RecordingError as error:
            if not skip_damaged:
                raise
            damaged.append(error)
    if not opened:
        raise damaged[0]
    return opened, tuple(damaged)
