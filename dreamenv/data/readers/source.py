"""What every reader offers: sources, each of which knows its pieces before it reads a picture.

A *piece* is what becomes one episode: a stretch of consecutive steps of one source. The pieces follow from the actions
and the settings alone, so a conversion that was interrupted goes on where it stopped, and reads no picture it does not
need.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import gymnasium as gym

from dreamenv.data.episode import Episode
from dreamenv.data.provenance import Provenance
from dreamenv.errors import ConfigError, RecordingError

__all__ = ["Piece", "Source", "Sources", "check_names", "cut", "open_each"]

Opened = TypeVar("Opened")

Piece = tuple[int, int]
"""(first, last): the numbers of the frames it begins and ends with; it has last - first steps."""


class Source(Protocol):
    """One recorded file, or one folder of files that belong together."""

    @property
    def name(self) -> str:
        """What episodes of it are called; no two sources of one conversion share it."""
        ...

    def pieces(self) -> list[Piece]:
        """Return what becomes an episode, in order."""
        ...

    def episodes(self, pieces: Sequence[Piece]) -> Iterator[Episode]:
        """Read some of the pieces, in order.

        Raises:
            RecordingError: the source is damaged; what came before is good.
        """
        ...

    def release(self) -> None:
        """Forget what was read, to free its memory; it is read again when asked for."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Sources that go into one dataset.

    Attributes:
        sources: in the order in which they are read.
        provenance: of what they recorded.
        action_space: of all of them.
        frame_shape: (h, w, c) of the frames they give.
        skip_damaged: whether to go on after one that cannot be read.
        damaged: why some could not even be opened.
    """

    sources: Sequence[Source]
    provenance: Provenance
    action_space: gym.Space[Any]
    frame_shape: tuple[int, int, int]
    skip_damaged: bool = False
    damaged: tuple[RecordingError, ...] = ()


def cut(first: int, last: int, longest: int) -> list[Piece]:
    """Cut a stretch of frames into pieces of at most so many steps; each begins on the frame that ended the last."""
    return [(begin, min(begin + longest, last)) for begin in range(first, last, longest)]


def check_names(paths: Sequence[Path], names: Sequence[str]) -> None:
    """Refuse no sources, and two of one name.

    Raises:
        ConfigError: names both.
    """
    if not paths:
        raise ConfigError("there is nothing to convert; name at least one recording.")
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        both = [str(path) for path, name in zip(paths, names, strict=True) if name == doubled[0]]
        raise ConfigError(f"{' and '.join(both)} would have one name, {doubled[0]!r}; rename one, or convert it apart.")


def open_each(
    paths: Sequence[Path], opener: Callable[[Path], Opened], *, skip_damaged: bool
) -> tuple[list[Opened], tuple[RecordingError, ...]]:
    """Open files one after another.

    Args:
        paths: which.
        opener: opens one.
        skip_damaged: leave out those that cannot be opened, unless it is all of them.

    Returns:
        What was opened, and why the others were not.

    Raises:
        RecordingError: one cannot be opened.
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
