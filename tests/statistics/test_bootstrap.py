"""The bootstrap interval against scipy's, its definition, and its coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fgg.randomness import generator
from fgg.statistics import bootstrap
from fgg.statistics.bootstrap import LEVEL, MOST_VALUES, RESAMPLES, Intervals, bootstrap_interval, bootstrap_intervals


def skewed(n: int) -> np.ndarray:
    """Values whose bias and acceleration matter."""
    return np.random.default_rng(3).gamma(1.5, 0.05, n) - 0.03


@pytest.mark.parametrize("n", [5, 60, 150])
def test_it_follows_its_definition_and_agrees_with_scipys(n):
    values = skewed(n)
    drawn = generator(0, "bootstrap", n).integers(0, n, (RESAMPLES, n))
    resamples = np.sort(values[drawn].mean(axis=1))
    share = ((resamples < values.mean() - 1e-12).sum() + (resamples <= values.mean() + 1e-12).sum()) / (2 * RESAMPLES)
    z0 = stats.norm.ppf(share)
    leave_out = np.array([np.delete(values, i).mean() for i in range(n)])
    centred = leave_out.mean() - leave_out
    acceleration = np.sum(centred**3) / (6 * np.sum(centred**2) ** 1.5)
    ends = [
        np.quantile(resamples, stats.norm.cdf(z0 + (z0 + z) / (1 - acceleration * (z0 + z))))
        for z in stats.norm.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    ]
    assert bootstrap_interval(values, 0) == pytest.approx(tuple(ends), abs=1e-9)
    other = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    width = other.high - other.low
    assert bootstrap_interval(values, 0) == pytest.approx((other.low, other.high), abs=0.05 * width)


def test_it_covers_the_mean():
    rng = np.random.default_rng(5)
    intervals = [bootstrap_interval(rng.normal(0.3, 1, 25), seed) for seed in range(60)]
    assert 50 <= sum(low < 0.3 < high for low, high in intervals) <= 60


def test_the_seed_decides_it():
    values = skewed(60)
    assert bootstrap_interval(values, 0) == bootstrap_interval(values, 0)
    assert bootstrap_interval(values, 0) != bootstrap_interval(values, 1)


def test_equal_values_have_none():
    assert np.isnan(bootstrap_interval(np.full(5, 0.25), 0)).all()


def test_many_values_have_students():
    values = skewed(MOST_VALUES + 1)
    expected = stats.t.interval(LEVEL, len(values) - 1, values.mean(), stats.sem(values))
    assert bootstrap_interval(values, 0) == pytest.approx(expected, rel=1e-9)
    few = bootstrap_interval(values[:MOST_VALUES], 0)
    assert few == pytest.approx(
        stats.t.interval(LEVEL, MOST_VALUES - 1, values[:-1].mean(), stats.sem(values[:-1])), rel=0.03
    )


def test_intervals_do_not_depend_on_what_is_computed_together(monkeypatch):
    draw = np.random.default_rng(2)
    vectors = [draw.normal(0.1, 1, n) for n in (5, 60, 5, MOST_VALUES + 1, 60, 7, 60)] + [np.full(5, 0.25)]
    alone = [bootstrap_interval(values, 0) for values in vectors]
    assert np.array_equal(bootstrap_intervals(vectors, 0), alone, equal_nan=True)
    for most_pending in (0, 70, 10**6):
        intervals = Intervals(0, most_pending)
        found = [intervals.ask(values) for values in vectors]
        intervals.settle()
        assert np.array_equal([(each.low, each.high) for each in found], alone, equal_nan=True)
    monkeypatch.setattr(bootstrap, "BLOCK", 1000)  # 16 resamples of 60 values, and a part at the end
    monkeypatch.setattr(bootstrap, "TOGETHER", 2)
    bootstrap._counts.cache_clear()
    assert np.array_equal(bootstrap_intervals(vectors, 0), alone, equal_nan=True)


def test_an_interval_is_unknown_before_it_is_settled():
    intervals = Intervals(0)
    found = intervals.ask(skewed(20))
    assert np.isnan(found.low)
    intervals.settle()
    assert (found.low, found.high) == bootstrap_interval(skewed(20), 0)
