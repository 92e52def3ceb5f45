"""Longer dreams as a whole: are actions seen in them, and are they videos like the real ones?

Held-out episodes are dreamt on under the recorded actions. An inverse-dynamics network, trained on real frames of other
episodes, tells from the dreamt frames which action was taken; its accuracy is compared with that on the recorded frames
of the same steps. The first `CLIP_FRAMES` dreamt frames are compared, as a distribution, with those of other recorded
segments (rFVD, see `dreamenv.metrics.frechet`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.store import FrameStore
from dreamenv.data.windows import windows_for_evaluation
from dreamenv.errors import ConfigError, DatasetError
from dreamenv.frames import frames_to_model, frames_to_numpy
from dreamenv.metrics.frechet import CLIP_FRAMES, clip_features, frechet_distance
from dreamenv.metrics.inverse_dynamics import FRAMES, InverseDynamicsConfig, train_inverse_dynamics
from dreamenv.metrics.statistics import ratio_interval
from dreamenv.metrics.windows import dreamed, reconstructed

__all__ = ["ACTION_STEPS", "rollout_fidelity"]

ACTION_STEPS = (1, 5, 15, 30)
"""Steps into the dream at which actions are recognised."""

_LEAST_CLIPS = 16  # of fewer, a spread says nothing

Frames = npt.NDArray[np.uint8]


def rollout_fidelity(
    model: Any,
    held_out: EpisodeDataset,
    training: EpisodeDataset,
    *,
    steps: Sequence[int] = ACTION_STEPS,
    windows: int = 256,
    context: int = 8,
    inverse: InverseDynamicsConfig | None = None,
    cache: Path | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Measure action fidelity and rFVD.

    Args:
        model: a World, or a world model.
        held_out: episodes that neither the model nor the inverse dynamics was trained on.
        training: other episodes of the same environment, on which the inverse dynamics is trained.
        steps: into the dream at which actions are recognised; those longer than any episode are left out.
        windows: how many are dreamt, at most.
        context: steps observed before each dream, at least `FRAMES` - 2.
        inverse: how the inverse dynamics is trained; None takes the defaults.
        cache: folder in which it is kept.
        seed: of the choice of windows and of the dreams.
        device: where the model is.

    Returns:
        JSON values: ``actions``: ``steps`` (step as text -> {``dream``, ``real`` and, where there is a codec, ``codec``
        alone: accuracy {mean, low, high}; ``share``: dream over real}), ``usual``, the accuracy of always saying the
        commonest action, and ``windows``; and ``rfvd``: {``dream``, ``persistence``, ``floor``: distances from real
        clips, the floor being that of other real clips; ``clips``}, or None if too few episodes are long enough.

    Raises:
        DatasetError: no episode of either is long enough.
        ConfigError: actions are not Discrete, or a setting that cannot work.
    """
    model = getattr(model, "model", model)
    if not steps or min(steps) < 1 or windows < 1 or context < FRAMES - 2:
        raise ConfigError(
            f"steps and windows must be at least 1 and context at least {FRAMES - 2}, not {tuple(steps)}, {windows} "
            f"and {context}."
        )
    network = train_inverse_dynamics(training, inverse, cache=cache)
    store = FrameStore(held_out)
    fitting = [step for step in sorted(set(steps)) if step + context <= store.lengths.max()]
    if not fitting:
        raise DatasetError(
            f"no held-out episode of {held_out.path} has the {context} steps of the context and {min(steps)} more (the "
            f"longest has {store.lengths.max()}). Use a shorter context or record longer episodes."
        )
    clips = context + CLIP_FRAMES <= store.lengths.max()
    horizon = max(fitting[-1], CLIP_FRAMES if clips else 1)
    rows = windows_for_evaluation(store, context + horizon, windows, seed)
    real, dreamt, actions = _dream(model, store, rows, context, horizon, seed, device)
    start = int(getattr(held_out.action_space, "start", 0))
    right: dict[str, dict[str, npt.NDArray[np.bool_]]] = {}
    for step in fitting:
        seen = slice(step + context - FRAMES + 1, step + context + 1)
        shown = {"dream": dreamt[:, seen], "real": real[:, seen]}
        coded = reconstructed(model, frames_to_model(real[:, seen]).flatten(0, 1), device)
        if coded is not None:
            shown["codec"] = frames_to_numpy(coded.unflatten(0, (len(rows), FRAMES)))
        taken = actions[:, context + step - 1] - start
        right[str(step)] = {name: network.recognise(frames) == taken for name, frames in shown.items()}
    _, counts = np.unique(actions[:, context:], return_counts=True)
    return {
        "actions": {
            "steps": {
                step: _accuracies(entry, ~store.terminated[rows + context + int(step)], seed)
                for step, entry in right.items()
            },
            "usual": float(counts.max() / counts.sum()),
            "windows": len(rows),
        },
        "rfvd": _rfvd(store, real, dreamt, context, seed) if clips and len(rows) >= _LEAST_CLIPS else None,
    }


def _dream(
    model: Any,
    store: FrameStore,
    rows: npt.NDArray[np.int64],
    context: int,
    horizon: int,
    seed: int,
    device: torch.device | str,
) -> tuple[Frames, Frames, npt.NDArray[np.int64]]:
    """Return recorded frames (n, context + 1 + horizon, h, w, c), the same with the last ones dreamt, and actions."""
    real = store.frames[rows[:, None] + np.arange(context + horizon + 1)]
    actions = store.actions[rows[:, None] + 1 + np.arange(context + horizon)]
    dreams = dreamed(model, store, rows, context=context, horizon=horizon, seed=seed, device=device)
    imagined = np.concatenate([frames_to_numpy(frames) for _, frames in dreams])
    return real, np.concatenate((real[:, : context + 1], imagined), axis=1), actions


def _accuracies(right: dict[str, npt.NDArray[np.bool_]], counts: npt.NDArray[np.bool_], seed: int) -> dict[str, Any]:
    """Return accuracies over the windows that count: a terminal frame may be anything."""
    return {
        **{name: ratio_interval(one & counts, counts, seed) for name, one in right.items()},
        "share": ratio_interval(right["dream"] & counts, right["real"] & counts, seed),
    }


def _rfvd(store: FrameStore, real: Frames, dreamt: Frames, context: int, seed: int) -> dict[str, Any]:
    """Compare clips with those of other windows: next to their own continuations, dreams could fall below the floor."""
    first = context + 1
    others = windows_for_evaluation(store, context + CLIP_FRAMES, len(real), seed + 1)
    compared = clip_features(store.frames[others[:, None] + first + np.arange(CLIP_FRAMES)])
    still = np.repeat(real[:, context : context + 1], CLIP_FRAMES, axis=1)
    own = slice(first, first + CLIP_FRAMES)
    return {
        name: frechet_distance(clip_features(frames), compared)
        for name, frames in (("dream", dreamt[:, own]), ("persistence", still), ("floor", real[:, own]))
    } | {"clips": len(real)}
