"""Summaries agree with published formulas and refuse what cannot be summarised."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dreamenv.errors import InputError
from dreamenv.metrics.statistics import (
    interquartile_mean,
    mean_intervals,
    mean_iqm_interval,
    spearman_interval,
    wilson_interval,
)


def test_the_interquartile_mean_is_rliables():
    # rliable's aggregate_iqm(scores) is scipy.stats.trim_mean(scores, proportiontocut=0.25, axis=None).
    scores = np.random.default_rng(0).normal(size=(5, 10))
    assert interquartile_mean(scores) == pytest.approx(stats.trim_mean(scores, proportiontocut=0.25, axis=None))
    # By hand: of 1..8 the middle half is 3, 4, 5, 6.
    assert interquartile_mean([8, 1, 7, 2, 6, 3, 5, 4]) == 4.5
    assert interquartile_mean([0, 0, 10, 1000]) == 5.0


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        low, high = mean_iqm_interval(rng.normal(3.0, 2.0, size=40), seed=trial, resamples=300).mean_interval
        hits += low <= 3.0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_the_bootstrap_of_the_mean_agrees_with_the_normal_theory():
    values = np.random.default_rng(2).normal(size=400)
    summary = mean_iqm_interval(values, seed=0)
    half = 1.96 * values.std(ddof=1) / 20
    assert summary.mean == pytest.approx(values.mean())
    assert summary.mean_interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)


def test_intervals_of_several_means_agree_with_those_of_each():
    columns = np.random.default_rng(5).exponential(size=(80, 3))
    found = mean_intervals(columns, seed=0)
    for column in range(3):
        expected = mean_iqm_interval(columns[:, column], seed=1).mean_interval
        assert found[column] == pytest.approx(expected, rel=0.05)
    assert np.array_equal(found, mean_intervals(columns, seed=0))


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = np.random.default_rng(3).exponential(size=30)
    assert mean_iqm_interval(values, seed=1) == mean_iqm_interval(values, seed=1)
    assert mean_iqm_interval(values, seed=1).iqm_interval != mean_iqm_interval(values, seed=2).iqm_interval


def test_one_value_or_equal_values_have_an_interval_of_no_width():
    assert mean_iqm_interval([4.0]).mean_interval == (4.0, 4.0)
    summary = mean_iqm_interval([2.0] * 7)
    assert summary.iqm_interval == (2.0, 2.0)
    assert summary.std == 0.0
    assert summary.to_json()["mean_interval"] == [2.0, 2.0]


def test_wilsons_interval_equals_scipys():
    expected = stats.binomtest(7, 20).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson_interval(7, 20) == pytest.approx((expected.low, expected.high))
    assert wilson_interval(0, 10)[0] == 0.0
    assert wilson_interval(10, 10)[1] == pytest.approx(1.0)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_values_that_cannot_be_summarised_are_refused(values):
    with pytest.raises(InputError):
        mean_iqm_interval(values)


def test_impossible_proportions_are_refused():
    with pytest.raises(InputError, match="3 of 2"):
        wilson_interval(3, 2)


def test_spearmans_correlation_is_of_ranks_and_its_interval_narrows_with_pairs():
    exact = spearman_interval([1, 2, 3, 4, 5], [1, 10, 100, 1000, 1e6])
    assert exact == {"correlation": pytest.approx(1.0), "low": pytest.approx(1.0), "high": pytest.approx(1.0)}
    random = np.random.default_rng(3)
    widths = []
    for n in (12, 300):
        first = random.normal(size=n)
        second = -first + random.normal(size=n)
        found = spearman_interval(first, second, seed=1)
        assert found is not None
        assert found["correlation"] == pytest.approx(stats.spearmanr(first, second).statistic)
        assert found["low"] < found["correlation"] < found["high"]
        widths.append(found["high"] - found["low"])
    assert found["high"] < 0
    assert widths[0] > 2 * widths[1]
    # With ties, by hand: ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4 correlate by 4.5 / sqrt(4.5 * 5).
    tied = spearman_interval([1, 2, 2, 3], [1, 2, 3, 4])
    assert tied is not None
    assert tied["correlation"] == pytest.approx(4.5 / 22.5**0.5)
    assert spearman_interval([1, 1, 1], [1, 2, 3]) is None
    with pytest.raises(InputError, match="not 2 and 3"):
        spearman_interval([1, 2], [1, 2, 3])
