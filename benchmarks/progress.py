"""The stages of a long program: counted, with an estimate of what they take, and timed on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dreamenv.errors import ConfigError
from dreamenv.storage import read_json, write_json

__all__ = ["Stages"]


class Stages:
    """Says which stage begins, "2 of 6", and keeps the seconds of each, so that a resumed program still knows them.

    Args:
        path: of the JSON file with the seconds of the stages that are done.
        estimates: stage -> its likely seconds, in order.

    Attributes:
        seconds: stage -> the seconds it took.
    """

    def __init__(self, path: Path, estimates: Mapping[str, float]) -> None:
        self._path, self._estimates = path, dict(estimates)
        remedy = "Delete it; it holds nothing but how long the stages took."
        self.seconds: dict[str, float] = read_json(path, ConfigError, remedy) if path.exists() else {}
        left = [estimate for name, estimate in self._estimates.items() if name not in self.seconds]
        done = len(self._estimates) - len(left)
        print(
            f"{len(self._estimates)} stages, {f'{done} of them done before; ' if done else ''}about "
            f"{_spoken(sum(left))} on two cores. Results: {path.parent.resolve()}",
            flush=True,
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Say that a stage begins, and note how long it took."""
        place = list(self._estimates).index(name) + 1
        about = "done before" if name in self.seconds else f"about {_spoken(self._estimates[name])}"
        print(f"== {place} of {len(self._estimates)}: {name} ({about})", flush=True)
        began = time.perf_counter()
        yield
        # A stage that was only looked up again keeps the time it took when it was done.
        self.seconds[name] = max(time.perf_counter() - began, self.seconds.get(name, 0.0))
        write_json(self._path, self.seconds)


def _spoken(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(10, round(seconds, -1)):.0f} s"
