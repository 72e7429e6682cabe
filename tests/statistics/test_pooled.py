"""Random effects against slow re-computations of each part, and cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from fgg.statistics.pooled import pool

ESTIMATES = np.array([0.10, 0.30, 0.35, 0.65, 0.45])
VARIANCES = np.array([0.03, 0.03, 0.05, 0.01, 0.05])


def generalised_q(tau2, estimates, variances):
    weights = 1 / (variances + tau2)
    mean = (weights * estimates).sum() / weights.sum()
    return (weights * (estimates - mean) ** 2).sum(), mean, weights


def test_each_part_follows_its_definition():
    """Paule-Mandel: Q(tau²) = k - 1. Hartung-Knapp: the variance of the mean is Q / (k - 1) / sum of weights."""
    k = len(ESTIMATES)
    tau2 = optimize.brentq(lambda t: generalised_q(t, ESTIMATES, VARIANCES)[0] - (k - 1), 0, 1)
    q, mean, weights = generalised_q(tau2, ESTIMATES, VARIANCES)
    error = (q / (k - 1) / weights.sum()) ** 0.5
    found = pool(ESTIMATES, VARIANCES)
    assert found["tau"] ** 2 == pytest.approx(tau2, abs=1e-4)
    assert found["mean"] == pytest.approx(mean, abs=1e-4)
    half = stats.t.ppf(0.975, k - 1) * error
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((mean - half, mean + half), abs=1e-3)
    assert found["p_value"] == pytest.approx(2 * stats.t.sf(mean / error, k - 1), rel=0.02)
    reach = stats.t.ppf(0.975, k - 2) * (tau2 + error**2) ** 0.5
    assert found["prediction_low"] == pytest.approx(mean - reach, abs=2e-3)
    assert (found["n_runs"], found["smallest"], found["largest"]) == (5, 0.10, 0.65)


def test_runs_that_agree_have_no_variance_between():
    found = pool(np.array([0.2, 0.21, 0.19]), np.full(3, 0.01))
    assert (found["tau"], found["share_between"]) == (0, 0)
    assert found["mean"] == pytest.approx(0.2)


def test_runs_that_differ_by_far_more_than_their_errors_vary_between():
    found = pool(np.array([-1.0, 0.0, 1.0, 2.0]), np.full(4, 1e-4))
    assert found["share_between"] > 0.99
    assert found["tau"] == pytest.approx(np.std([-1, 0, 1, 2], ddof=1), rel=0.01)


def test_the_interval_covers_the_mean():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        variances = rng.uniform(0.5, 2, 5)
        estimates = rng.normal(0.3, (variances + 1) ** 0.5)
        found = pool(estimates, variances)
        covered += found["ci_low"] < 0.3 < found["ci_high"]
    assert 180 <= covered <= 200


def test_too_few_runs_give_no_interval():
    one = pool(np.array([0.3, np.nan]), np.array([0.1, 0.1]))
    assert (one["n_runs"], one["mean"]) == (1, 0.3)
    assert np.isnan([one["ci_low"], one["p_value"]]).all()
    two = pool(np.array([0.3, 0.5]), np.array([0.1, 0.1]))
    assert np.isfinite([two["ci_low"], two["p_value"]]).all()
    assert np.isnan(two["prediction_low"])
    assert pool(np.array([]), np.array([]))["n_runs"] == 0
