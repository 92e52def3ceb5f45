"""Summaries of repeated measurements: mean, interquartile mean and 95% intervals.

The interquartile mean drops the lowest and the highest quarter and averages the rest: it is robust to outliers like the
median and far less noisy. It and its percentile bootstrap are those of Agarwal et al., "Deep Reinforcement Learning at
the Edge of the Statistical Precipice" (NeurIPS 2021); a test compares with their library's formula by value.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from dreamenv.errors import InputError

__all__ = [
    "Summary",
    "interquartile_mean",
    "mean_intervals",
    "mean_iqm_interval",
    "ratio_interval",
    "spearman_interval",
    "wilson_interval",
]

_RESAMPLES = 2000
_BATCH = 200  # resamples held in memory at once


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Summary statistics of a set of measurements, in their unit.

    Attributes:
        mean: the arithmetic mean.
        iqm: the interquartile mean.
        std: the sample standard deviation; 0 for a single value.
        mean_interval: (low, high), the interval of the mean.
        iqm_interval: (low, high), the interval of the interquartile mean.
        confidence: the share of experiments in which such an interval contains the true value.
        count: how many values.
    """

    mean: float
    iqm: float
    std: float
    mean_interval: tuple[float, float]
    iqm_interval: tuple[float, float]
    confidence: float
    count: int

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        values = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    def __str__(self) -> str:
        low, high = self.mean_interval
        return f"{self.mean:.4g} [{low:.4g}, {high:.4g}], iqm {self.iqm:.4g}, n = {self.count}"


def interquartile_mean(values: npt.ArrayLike) -> float:
    """Return the mean of the middle half (a quarter cut off at each end, rounded down)."""
    return float(stats.trim_mean(_checked(values), 0.25))


def mean_iqm_interval(
    values: npt.ArrayLike, seed: int = 0, *, confidence: float = 0.95, resamples: int = _RESAMPLES
) -> Summary:
    """Summarise independent measurements; intervals by percentile bootstrap.

    Args:
        values: (n,) finite numbers, n at least 1.
        seed: of the resampling; the same seed gives the same intervals.
        confidence: in (0, 1).
        resamples: how many times the values are resampled.

    Raises:
        InputError: no values, or one that is not finite.
    """
    data = _checked(values)
    if not 0 < confidence < 1:
        raise InputError(f"confidence must lie between 0 and 1, not {confidence}.")

    def interval(cut: float) -> tuple[float, float]:
        if data.min() == data.max():  # also a single value, of which nothing can be resampled
            return float(data[0]), float(data[0])
        result = stats.bootstrap(
            (data,),
            lambda sample, axis: stats.trim_mean(sample, cut, axis=axis),
            confidence_level=confidence,
            n_resamples=resamples,
            batch=_BATCH,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        return float(result.low), float(result.high)

    return Summary(
        mean=float(data.mean()),
        iqm=interquartile_mean(data),
        std=float(data.std(ddof=1)) if len(data) > 1 else 0.0,
        mean_interval=interval(0.0),
        iqm_interval=interval(0.25),
        confidence=confidence,
        count=len(data),
    )


def mean_intervals(
    columns: npt.ArrayLike, seed: int = 0, *, confidence: float = 0.95, resamples: int = _RESAMPLES
) -> npt.NDArray[np.float64]:
    """Return the percentile bootstrap intervals of several means over the same units, resampled together.

    Args:
        columns: (n, m) finite numbers, n units of m measurements each.
        seed: of the resampling.
        confidence: in (0, 1).
        resamples: how many times the units are resampled.

    Returns:
        (m, 2), low and high.
    """
    data = np.asarray(columns, dtype=np.float64)
    _checked(data)
    n, rng = len(data), np.random.default_rng(seed)
    # A mean depends only on how often each unit is sampled.
    counts = rng.multinomial(n, np.full(n, 1 / n), size=resamples)
    tail = (1 - confidence) / 2
    intervals: npt.NDArray[np.float64] = np.quantile(counts @ data / n, [tail, 1 - tail], axis=0).T
    return intervals


def ratio_interval(
    parts: npt.ArrayLike, wholes: npt.ArrayLike, seed: int = 0, *, confidence: float = 0.95, resamples: int = _RESAMPLES
) -> dict[str, float] | None:
    """Return the ratio of two sums over the same units, with its percentile bootstrap interval, units resampled.

    Args:
        parts: (n,) finite numbers, such as how many of a unit's objects were found.
        wholes: (n,) numbers of at least 0, such as how many there are; all 1 for a mean.
        seed: of the resampling.
        confidence: in (0, 1).
        resamples: how many times the units are resampled; those in which the wholes sum to 0 do not count.

    Returns:
        ``mean`` (the ratio), ``low`` and ``high``; None if the wholes sum to 0.
    """
    numerator, denominator = _checked(parts), _checked(wholes)
    n = len(numerator)
    if denominator.sum() == 0:
        return None
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    above, below = counts @ numerator, counts @ denominator
    tail = (1 - confidence) / 2
    low, high = np.quantile(above[below > 0] / below[below > 0], [tail, 1 - tail])
    return {"mean": float(numerator.sum() / denominator.sum()), "low": float(low), "high": float(high)}


def spearman_interval(
    first: npt.ArrayLike, second: npt.ArrayLike, seed: int = 0, *, confidence: float = 0.95, resamples: int = _RESAMPLES
) -> dict[str, float] | None:
    """Return Spearman's rank correlation of pairs, with its percentile bootstrap interval, pairs resampled.

    Args:
        first, second: (n,) finite numbers.
        seed: of the resampling.
        confidence: in (0, 1).
        resamples: how many times the pairs are resampled; those in which all of either are equal are left out.

    Returns:
        ``correlation``, ``low``, ``high``; None where all of ``first`` or of ``second`` are equal.

    Raises:
        InputError: there are no pairs, not as many of one as of the other, or a number that is not finite.
    """
    one, other = _checked(first), _checked(second)
    if len(one) != len(other):
        raise InputError(f"pairs need as many of one as of the other, not {len(one)} and {len(other)}.")
    pairs = np.stack([one, other])
    if (pairs == pairs[:, :1]).all(axis=1).any():
        return None
    chosen = np.random.default_rng(seed).integers(pairs.shape[1], size=(resamples, pairs.shape[1]))
    ranks = stats.rankdata(pairs[:, chosen], axis=-1)  # 2 r n
    ranks -= ranks.mean(axis=-1, keepdims=True)
    sizes = np.sqrt((ranks**2).sum(axis=-1)).prod(axis=0)
    found = (ranks.prod(axis=0).sum(axis=-1)[sizes > 0]) / sizes[sizes > 0]
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"correlation": float(stats.spearmanr(*pairs).statistic), "low": float(low), "high": float(high)}


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's (1927) score interval of a proportion: sound for few trials and for 0% and 100% too.

    Raises:
        InputError: no trials, or successes outside [0, trials].
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise InputError(f"successes must lie in [0, trials] with trials at least 1, not {successes} of {trials}.")
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    share, scale = successes / trials, 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def _checked(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    data = np.asarray(values, dtype=np.float64).ravel()
    if data.size == 0:
        raise InputError("there are no values to summarise; give at least one.")
    if not np.isfinite(data).all():
        raise InputError(f"value {int(np.flatnonzero(~np.isfinite(data))[0])} of {data.size} is not finite.")
    return data
