"""Calibration of a world's rewards and terminations: predicted against real.

Predictions are one step ahead: the model has observed everything up to the step, and predicts the action's outcome.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dreamenv.errors import InputError
from dreamenv.metrics.statistics import wilson_interval

__all__ = ["reward_calibration", "termination_calibration"]

Values = npt.NDArray[np.float64]
_FLOOR = 1e-6  # probabilities are kept this far from 0 and 1 in the log loss


def reward_calibration(predicted: npt.ArrayLike, real: npt.ArrayLike, *, bins: int = 10) -> dict[str, Any]:
    """Compare predicted with real rewards.

    Args:
        predicted: (n,) rewards, in the environment's units.
        real: (n,) likewise.
        bins: of equal counts, by predicted reward; fewer where predictions tie.

    Returns:
        ``mean_absolute_error``, ``root_mean_squared_error``, ``explained_variance`` (1 is perfect, 0 is no better than
        the mean; None if all real rewards are equal), ``bias`` (mean predicted less mean real) and ``bins``, a list of
        {predicted, real, count}, the means within each bin.
    """
    predictions, truth = _checked(predicted, real)
    errors = predictions - truth
    variance = float(truth.var())
    rows = [
        {"predicted": float(predictions[rows].mean()), "real": float(truth[rows].mean()), "count": len(rows)}
        for rows in _equal_bins(predictions, bins)
    ]
    return {
        "mean_absolute_error": float(np.abs(errors).mean()),
        "root_mean_squared_error": float(np.sqrt(np.square(errors).mean())),
        "explained_variance": 1.0 - float(errors.var()) / variance if variance > 0 else None,
        "bias": float(errors.mean()),
        "bins": rows,
        "steps": len(truth),
    }


def termination_calibration(predicted: npt.ArrayLike, real: npt.ArrayLike, *, bins: int = 10) -> dict[str, Any]:
    """Compare predicted termination probabilities with real terminations.

    Args:
        predicted: (n,) probabilities in [0, 1].
        real: (n,) whether the step ended the episode.
        bins: of equal counts, by predicted probability: terminations are rare, so bins of equal width would be empty.

    Returns:
        ``expected_calibration_error`` (mean gap between a bin's mean prediction and its rate, weighted by count),
        ``brier`` and ``log_loss`` (nats per step) next to those of always predicting the base rate (``..._base_rate``),
        ``predicted_rate`` and ``real_rate`` per step, and ``bins``, a list of {predicted, real, low, high, count} with
        Wilson's 95% interval of the real rate.
    """
    probabilities, truth = _checked(predicted, real)
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise InputError(
            f"probabilities must lie in [0, 1], not in [{probabilities.min():.4g}, {probabilities.max():.4g}]."
        )
    rate = np.full_like(truth, truth.mean())
    rows: list[dict[str, Any]] = []
    for members in _equal_bins(probabilities, bins):
        low, high = wilson_interval(int(truth[members].sum()), len(members))
        rows.append(
            {
                "predicted": float(probabilities[members].mean()),
                "real": float(truth[members].mean()),
                "low": low,
                "high": high,
                "count": len(members),
            }
        )
    return {
        "expected_calibration_error": sum(abs(r["predicted"] - r["real"]) * r["count"] for r in rows) / len(truth),
        "brier": float(np.square(probabilities - truth).mean()),
        "brier_base_rate": float(np.square(rate - truth).mean()),
        "log_loss": _log_loss(probabilities, truth),
        "log_loss_base_rate": _log_loss(rate, truth),
        "predicted_rate": float(probabilities.mean()),
        "real_rate": float(truth.mean()),
        "bins": rows,
        "steps": len(truth),
        "terminations": int(truth.sum()),
    }


def _log_loss(probabilities: Values, truth: Values) -> float:
    clipped = np.clip(probabilities, _FLOOR, 1 - _FLOOR)
    return float(-(truth * np.log(clipped) + (1 - truth) * np.log1p(-clipped)).mean())


def _equal_bins(predictions: Values, bins: int) -> list[npt.NDArray[np.intp]]:
    """Split into bins of about equal count; equal predictions always share a bin."""
    edges = np.unique(np.quantile(predictions, np.linspace(0, 1, bins + 1)[1:-1]))
    index = np.searchsorted(edges, predictions, side="left")
    return [members for bin_index in range(len(edges) + 1) if len(members := np.flatnonzero(index == bin_index))]


def _checked(predicted: npt.ArrayLike, real: npt.ArrayLike) -> tuple[Values, Values]:
    predictions, truth = np.asarray(predicted, np.float64).ravel(), np.asarray(real, np.float64).ravel()
    if len(predictions) != len(truth) or len(truth) == 0:
        raise InputError(
            f"predictions and truth must have equal lengths, at least 1, not {len(predictions)}, {len(truth)}."
        )
    if not (np.isfinite(predictions).all() and np.isfinite(truth).all()):
        raise InputError("predictions and truth must be finite.")
    return predictions, truth
