"""Small objects in dreams: are they still there, at their places, some steps after they were last seen?

Agents need a few pixels that PSNR hardly notices: a fireball, a medkit. A moment is a step of a held-out episode at
which the environment's detector finds an object. The model observes the frames up to it and dreams on under the
recorded actions; what the detector finds in the dream is compared with what it finds in the recorded frame of the same
step. Three more rows show what to expect: the recorded frames themselves, the same frames encoded and decoded
(the most that a dream of this codec could show), and persistence, the last observed frame again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.store import FrameStore
from dreamenv.errors import ConfigError, DatasetError
from dreamenv.frames import frames_to_numpy
from dreamenv.metrics.detectors import Detections, Detector, match
from dreamenv.metrics.known_objects import detector_for
from dreamenv.metrics.statistics import ratio_interval
from dreamenv.metrics.windows import dreamed_ends, reconstructed

__all__ = ["OBJECT_STEPS", "compare_objects", "object_fidelity"]

OBJECT_STEPS = (1, 8, 30)
"""Steps into the dream at which objects are looked for."""

_BLOCK = 256  # frames searched at a time


def object_fidelity(
    model: Any,
    dataset: EpisodeDataset,
    *,
    detector: Detector | None = None,
    steps: Sequence[int] = OBJECT_STEPS,
    moments: int = 256,
    context: int = 8,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Measure which share of the objects in held-out frames a world's dreams still show.

    Args:
        model: a World, or a world model.
        dataset: episodes the model was not trained on.
        detector: of the objects; None takes that of the recorded environment, see `dreamenv.metrics.known_objects`.
        steps: into the dream; those that follow no moment are left out.
        moments: how many dreams per step, at most; fewer where objects are rare.
        context: steps observed before each dream.
        seed: of the choice of moments and of the dreams.
        device: where the model is.

    Returns:
        JSON values: ``kinds`` of objects, ``tolerance`` in pixels of ``size``, ``moments``, ``context`` and ``seed``
        as asked for, and ``steps``: step as text -> `compare_objects` of it.

    Raises:
        UnknownNameError: no detector is known for the environment.
        FrameError: the frames are smaller than the detector needs.
        DatasetError: no frame that is far enough from its episode's ends shows an object.
    """
    model = getattr(model, "model", model)
    detector = detector or detector_for(dataset.provenance.environment_id)
    if not steps or min(steps) < 1 or moments < 1 or context < 0:
        raise ConfigError(
            f"steps and moments must be at least 1 and context at least 0, not {tuple(steps)}, {moments} and {context}."
        )
    store = FrameStore(dataset)
    result: dict[str, Any] = {}
    for step in sorted(set(steps)):
        rows = _moments(store, detector, context, step, moments, seed)
        if not len(rows):
            continue
        parts = list(dreamed_ends(model, store, rows, context=context, horizon=step, seed=seed, device=device))
        dream, truth, last, valid = (torch.cat(column) for column in zip(*parts, strict=True))
        if bool(valid.any()):
            shown = {"dream": dream[valid], "persistence": last[valid]}
            coded = reconstructed(model, truth[valid], device)
            if coded is not None:
                shown["codec"] = coded
            result[str(step)] = compare_objects(detector, truth[valid], shown, seed=seed)
    if not result:
        raise DatasetError(
            f"no held-out frame of {dataset.path} shows any {' or '.join(detector.kinds)} with {context} steps before "
            f"it and {min(steps)} after it. Record more episodes, with a policy that goes where they are."
        )
    return {
        "kinds": list(detector.kinds),
        "tolerance": detector.tolerance,
        "size": detector.size,
        "moments": moments,
        "context": context,
        "seed": seed,
        "steps": result,
    }


def compare_objects(detector: Detector, truth: Tensor, shown: dict[str, Tensor], *, seed: int = 0) -> dict[str, Any]:
    """Compare the objects in frames with those in real ones.

    Args:
        detector: of the objects.
        truth: (n, c, h, w) in [0, 1], the real frames.
        shown: name -> (n, c, h, w), what shows the same moments.
        seed: of the intervals.

    Returns:
        ``moments``, n; ``objects``, how many the real frames show; ``present``, the share of the real frames that show
        any; and for each name {``found``, the share of the real objects that are found at their places; ``present``;
        ``false``, objects per frame where there is none in reality}, each {mean, low, high}, 95% intervals over
        moments; ``found`` is None if the real frames show no object.
    """
    real = detector(frames_to_numpy(truth))
    count = np.asarray([len(one) for one in real], np.float64)
    each = np.ones(len(real))
    entry: dict[str, Any] = {
        "moments": len(real),
        "objects": int(count.sum()),
        "present": ratio_interval(count > 0, each, seed),
    }
    for name, frames in shown.items():
        found = detector(frames_to_numpy(frames))
        matched = _matches(detector, real, found)
        total = np.asarray([len(one) for one in found], np.float64)
        entry[name] = {
            "found": ratio_interval(matched, count, seed),
            "present": ratio_interval(total > 0, each, seed),
            "false": ratio_interval(total - matched, each, seed),
        }
    return entry


def _matches(detector: Detector, real: list[Detections], found: list[Detections]) -> npt.NDArray[np.float64]:
    pairs = zip(real, found, strict=True)
    return np.asarray([match(one, other, detector.tolerance) for one, other in pairs], np.float64)


def _moments(
    store: FrameStore, detector: Detector, context: int, step: int, count: int, seed: int
) -> npt.NDArray[np.int64]:
    """Return rows (n,) of the store, sorted, at which windows begin whose last observed frame shows an object."""
    length = context + step
    fitting = [
        start + np.arange(steps - length + 1)
        for start, steps in zip(store.starts, store.lengths, strict=True)
        if steps >= length
    ]
    rows = np.concatenate(fitting) if fitting else np.zeros(0, np.int64)
    np.random.default_rng((seed, step, 0x0B1)).shuffle(rows)
    found: list[int] = []
    for first in range(0, len(rows), _BLOCK):
        block = rows[first : first + _BLOCK]
        seen = detector(np.asarray(store.frames[block + context]))
        found += [int(row) for row, objects in zip(block, seen, strict=True) if len(objects)]
        if len(found) >= count:
            break
    return np.sort(np.asarray(found[:count], np.int64))
