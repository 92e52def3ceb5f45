"""Check the detectors of objects against the engines: ``python -m dreamenv.benchmarks.detectors``.

Plays each task, asks the engine what every frame shows, and counts how often the detector agrees: precision, the share
of its detections that are there; recall, the share of the objects of at least `PLAIN` pixels that it finds. Objects
that overlap may share a detection. It takes half a minute per task.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tyro

from dreamenv.benchmarks.common import envelope, print_table, write_json
from dreamenv.benchmarks.object_truth import LABELLED_TASKS, LabelledFrames, record_labelled
from dreamenv.envs import full_id
from dreamenv.errors import ConfigError
from dreamenv.metrics.detectors import Detections, Detector
from dreamenv.metrics.known_objects import detector_for

__all__ = ["PLAIN", "Detectors", "agreement", "main"]

PLAIN = 4.0
"""Pixels of a 64x64 frame, from which an object should be found."""


@dataclass(frozen=True, kw_only=True)
class Detectors:
    """What to check.

    Attributes:
        tasks: which tasks' detectors.
        frames: per task.
        seed: of the first episode.
        out: JSON file to write; nothing is written without it.
    """

    tasks: tuple[str, ...] = LABELLED_TASKS
    frames: int = 500
    seed: int = 90_000
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ConfigError(f"frames must be at least 1, not {self.frames}.")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Check from the command line."""
    settings = tyro.cli(Detectors, args=arguments, description=__doc__)
    results = {
        task: agreement(detector_for(full_id(task)), record_labelled(task, settings.frames, seed=settings.seed))
        for task in settings.tasks
    }
    rows = [
        (task, one["frames"], one["objects"], one["plain_objects"], one["precision"], one["recall"], one["recall_all"])
        for task, one in results.items()
    ]
    names = ("task", "frames", "objects", f"of {PLAIN:g} pixels", "precision", "recall", "recall of all")
    print_table(names, rows)
    if settings.out is not None:
        print(f"wrote {write_json(settings.out, envelope('detectors', results, vars(settings)))}", file=sys.stderr)
    return results


def agreement(detector: Detector, labelled: LabelledFrames) -> dict[str, Any]:
    """Return precision and recall of a detector on labelled frames, and the counts behind them."""
    right = found = plain = plain_found = every = every_found = 0
    for truth, seen in zip(labelled.objects, detector(labelled.frames), strict=True):
        near = _near(truth, seen, detector.tolerance)
        large = truth[:, 2] >= PLAIN
        found, right = found + len(seen), right + int(near.any(0).sum())
        plain, plain_found = plain + int(large.sum()), plain_found + int((near.any(1) & large).sum())
        every, every_found = every + len(truth), every_found + int(near.any(1).sum())
    return {
        "frames": len(labelled.frames),
        "objects": every,
        "plain_objects": plain,
        "detections": found,
        "precision": right / found if found else None,
        "recall": plain_found / plain if plain else None,
        "recall_all": every_found / every if every else None,
    }


def _near(truth: Detections, seen: Detections, tolerance: float) -> npt.NDArray[np.bool_]:
    apart = np.hypot(truth[:, None, 0] - seen[None, :, 0], truth[:, None, 1] - seen[None, :, 1])
    reach = np.maximum(tolerance, np.sqrt(truth[:, 2] / np.pi))
    near: npt.NDArray[np.bool_] = (apart <= reach[:, None]) & (truth[:, None, 3] == seen[None, :, 3])
    return near


if __name__ == "__main__":
    main()
