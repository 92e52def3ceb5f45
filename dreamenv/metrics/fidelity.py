"""Frame fidelity over the horizon: frames dreamed under recorded actions against the recorded frames.

A window is a segment of a held-out episode: the model observes its context, then imagines the rest under the recorded
actions, open loop. The baseline of every metric is persistence: the last observed frame, repeated.
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
from dreamenv.data.windows import windows_for_evaluation
from dreamenv.metrics.bits import score_windows
from dreamenv.metrics.calibration import reward_calibration, termination_calibration
from dreamenv.metrics.images import brightness, contrast, gradient_energy, psnr, sharpness, ssim
from dreamenv.metrics.statistics import mean_intervals
from dreamenv.metrics.windows import dreamed_ends, longest_horizon, predict_one_step

__all__ = ["HORIZONS", "calibration", "compare_frames", "dream_fidelity", "drift", "fidelity"]

HORIZONS = (1, 5, 10, 30, 100)
"""Steps into the dream at which frames are compared."""


def fidelity(
    model: Any,
    dataset: EpisodeDataset,
    *,
    horizons: Sequence[int] = HORIZONS,
    windows: int = 64,
    context: int = 8,
    calibration_steps: int = 10_000,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Measure a world on held-out episodes.

    Args:
        model: a World, or a world model.
        dataset: episodes the model was not trained on.
        horizons: steps at which frames are compared; those longer than any episode are left out.
        windows: how many are dreamed for each horizon.
        context: steps observed before the dream begins.
        calibration_steps: recorded steps on which rewards and terminations are predicted; whole episodes, the last
            may exceed it.
        seed: of the choice of windows and of the dreams.
        device: where the model is.

    Returns:
        JSON values: ``horizons`` (horizon as text -> `compare_frames`), ``drift`` (horizon as text -> `drift`),
        ``reward`` and ``termination`` (see `dreamenv.metrics.calibration`), ``bits`` (see
        `dreamenv.metrics.bits.score_windows`; None without a score), ``windows``, ``context`` and ``seed``.

    Raises:
        DatasetError: no episode is longer than the context and the shortest horizon.
    """
    store = FrameStore(dataset)
    return {
        **dream_fidelity(model, store, horizons=horizons, windows=windows, context=context, seed=seed, device=device),
        **calibration(model, store, steps=calibration_steps, seed=seed, device=device),
        "bits": score_windows(
            getattr(model, "model", model), store, windows=windows, context=context, seed=seed, device=device
        ),
    }


def dream_fidelity(
    model: Any,
    store: FrameStore,
    *,
    horizons: Sequence[int] = HORIZONS,
    windows: int = 64,
    context: int = 8,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Return ``horizons``, ``drift``, ``windows``, ``context`` and ``seed`` of `fidelity`."""
    model = getattr(model, "model", model)
    longest = longest_horizon(store, context, max(horizons))
    measured = [horizon for horizon in sorted(set(horizons)) if horizon <= longest] or [longest]
    frames: dict[str, Any] = {}
    drifts: dict[str, Any] = {}
    for horizon in measured:
        # Each horizon has windows of its own, uniform among all that fit: sharing those of the longest would measure
        # the short ones on long episodes only.
        rows = windows_for_evaluation(store, context + horizon, windows, seed)
        parts = list(dreamed_ends(model, store, rows, context=context, horizon=horizon, seed=seed, device=device))
        dream, truth, last, valid = (torch.cat(column) for column in zip(*parts, strict=True))
        if bool(valid.any()):
            frames[str(horizon)] = compare_frames(dream[valid], truth[valid], last[valid], seed=seed)
            drifts[str(horizon)] = drift(dream[valid], truth[valid])
    return {"horizons": frames, "drift": drifts, "windows": windows, "context": context, "seed": seed}


def compare_frames(dream: Tensor, truth: Tensor, last: Tensor, *, seed: int = 0) -> dict[str, Any]:
    """Compare dreamed with real frames.

    Args:
        dream: (n, c, h, w) in [0, 1].
        truth: likewise, the real frames.
        last: likewise, the last frames observed before the dreams.
        seed: of the intervals.

    Returns:
        For each of ``psnr`` (decibels), ``ssim``, ``persistence_psnr``, ``persistence_ssim``, ``psnr_gain`` and
        ``ssim_gain`` (over persistence, window by window) {mean, low, high}, 95% intervals over windows; and ``count``.
    """
    values = {
        "psnr": psnr(dream, truth),
        "ssim": ssim(dream, truth),
        "persistence_psnr": psnr(last, truth),
        "persistence_ssim": ssim(last, truth),
    }
    values["psnr_gain"] = values["psnr"] - values["persistence_psnr"]
    values["ssim_gain"] = values["ssim"] - values["persistence_ssim"]
    columns = torch.stack(list(values.values()), dim=1).double().numpy()  # n measures
    intervals = mean_intervals(columns, seed)
    entry: dict[str, Any] = {
        name: {"mean": float(columns[:, i].mean()), "low": float(intervals[i, 0]), "high": float(intervals[i, 1])}
        for i, name in enumerate(values)
    }
    return entry | {"count": len(dream)}


def drift(dream: Tensor, truth: Tensor) -> dict[str, Any]:
    """Compare statistics of dreamed and real frames, whatever they show.

    Args:
        dream, truth: (n, c, h, w) in [0, 1].

    Returns:
        ``sharpness_ratio``, ``gradient_energy_ratio`` and ``contrast_ratio`` (dream over reality; 1 is faithful, below
        1 is blurred or washed out; None where reality has none) and ``brightness_shift`` (dream less reality, in
        [-1, 1]), all of means over frames.
    """
    return {
        "sharpness_ratio": _ratio(sharpness(dream), sharpness(truth)),
        "gradient_energy_ratio": _ratio(gradient_energy(dream), gradient_energy(truth)),
        "contrast_ratio": _ratio(contrast(dream), contrast(truth)),
        "brightness_shift": float(brightness(dream).mean() - brightness(truth).mean()),
    }


def calibration(
    model: Any, store: FrameStore, *, steps: int, seed: int = 0, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Return ``reward`` and ``termination``: one-step predictions over whole episodes against reality."""
    model = getattr(model, "model", model)
    names = ("reward", "real_reward", "termination", "real_termination")
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in names}
    for prediction in predict_one_step(model, store, steps=steps, seed=seed, device=device):
        for name, values in prediction.items():
            parts[name].append(values)
    merged = {name: np.concatenate(values) for name, values in parts.items()}
    return {
        "reward": reward_calibration(merged["reward"], merged["real_reward"]),
        "termination": termination_calibration(merged["termination"], merged["real_termination"]),
    }


def _ratio(dreamed: Tensor, real: Tensor) -> float | None:
    reference = float(real.mean())
    return float(dreamed.mean()) / reference if reference > 0 else None
