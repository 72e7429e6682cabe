"""Paired statistics against scipy called directly, slow re-implementations, and cases worked by hand."""

import itertools
import warnings

import numpy as np
import pytest
from scipy import stats

from fgg.statistics.bootstrap import bootstrap_interval
from fgg.statistics.paired import describe, holm, paired, t_test

SEED = 0


@pytest.fixture
def scores():
    rng = np.random.default_rng(3)
    baseline = rng.normal(0.2, 0.2, 60)
    return baseline + rng.gamma(1.5, 0.05, 60) - 0.05, baseline


def test_agrees_with_scipy(scores):
    treatment, baseline = scores
    row = paired(treatment, baseline, 1, SEED)
    assert row["p_value"] == pytest.approx(stats.ttest_rel(treatment, baseline).pvalue, rel=1e-10)
    assert row["wilcoxon_p"] == pytest.approx(stats.wilcoxon(treatment, baseline).pvalue, rel=1e-10)
    assert (row["ci_low"], row["ci_high"]) == bootstrap_interval(treatment - baseline, SEED)
    assert row["ci_low"] < row["difference"] < row["ci_high"]
    assert row["reason"] == ""


def test_agrees_with_formulas(scores):
    treatment, baseline = (x.tolist() for x in scores)
    row = paired(*scores, -1, SEED)
    differences = [t - b for t, b in zip(treatment, baseline, strict=True)]
    n = len(differences)
    mean = sum(differences) / n
    sd = (sum((d - mean) ** 2 for d in differences) / (n - 1)) ** 0.5
    reference = sum(baseline) / n
    assert row["difference"] == pytest.approx(mean, rel=1e-12)
    assert row["improvement"] == pytest.approx(-mean, rel=1e-12)
    assert row["effect_size"] == pytest.approx(-mean / sd, rel=1e-12)
    assert row["improvement_pct"] == pytest.approx(-100 * mean / abs(reference), rel=1e-12)
    assert row["share_improved"] == sum(d < 0 for d in differences) / n
    assert row["mean"] - row["baseline_mean"] == pytest.approx(row["difference"], abs=1e-14)
    assert row["sem"] == pytest.approx(np.std(treatment, ddof=1) / n**0.5, rel=1e-12)
    assert row["p_value"] == pytest.approx(2 * stats.t.sf(abs(mean) / (sd / n**0.5), n - 1), rel=1e-10)


def test_the_seed_decides_the_interval(scores):
    one, same, other = (paired(*scores, 1, seed) for seed in (0, 0, 1))
    assert one == same
    assert one["ci_low"] != other["ci_low"]


def test_undefined_scores_are_left_out_pairwise(scores):
    treatment, baseline = (x.copy() for x in scores)
    treatment[[0, 5]], baseline[[5, 9]] = np.nan, np.nan
    row = paired(treatment, baseline, 1, SEED)
    kept = np.setdiff1d(np.arange(60), [0, 5, 9])
    assert (row["n_pairs"], row["n_left_out"]) == (57, 3)
    clean = paired(treatment[kept], baseline[kept], 1, SEED)
    assert {k: v for k, v in row.items() if k != "n_left_out"} == {k: v for k, v in clean.items() if k != "n_left_out"}
    assert row["mean"] - row["baseline_mean"] == pytest.approx(row["difference"])


def test_a_negative_baseline_mean_keeps_the_direction():
    baseline = np.array([-0.2, -0.1, -0.3, -0.2])
    treatment = baseline + np.array([0.1, 0.1, 0.1, 0.14])
    better = paired(treatment, baseline, 1, SEED)
    assert better["improvement_pct"] == pytest.approx(100 * 0.11 / 0.2)
    assert better["effect_size"] > 0
    assert paired(treatment, baseline, -1, SEED)["improvement_pct"] == pytest.approx(-55)
    assert np.isnan(paired(np.array([1.0, 2, 4]), np.zeros(3), 1, SEED)["improvement_pct"])  # of nothing


def test_ties_are_counted_apart():
    baseline = np.zeros(10)
    treatment = np.array([0.3, 0.2, 0.1, -0.1, 1e-8, 0, 0, 0.5, 0.4, 0.6])
    row = paired(treatment, baseline, 1, SEED)
    assert (row["n_tied"], row["share_improved"]) == (3, 0.6)
    untied = treatment[np.abs(treatment) > 1e-6]
    ranks = stats.rankdata(np.abs(untied))
    observed = min(ranks[untied > 0].sum(), ranks[untied < 0].sum())
    sums = [sum(r for r, s in zip(ranks, signs, strict=True) if s) for signs in itertools.product((0, 1), repeat=7)]
    exact = 2 * np.mean(np.array(sums) <= observed)
    assert row["wilcoxon_p"] == pytest.approx(stats.wilcoxon(untied).pvalue, abs=0.05)
    assert row["wilcoxon_p"] == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize(
    ("treatment", "baseline", "reason", "interval"),
    [
        ([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], "identical scores", (0, 0)),
        ([1.1, 1.2, 1.3, 1.4], [0.1, 0.2, 0.3, 0.4], "all differences are equal", (1, 1)),
        ([1.0, 2.0], [0.5, 0.0], "only 2 pairs", None),
        ([1.0, np.nan, 2.0], [0.5, 1.0, 0.0], "only 2 pairs", None),
        ([np.nan] * 4, [0.1, 0.2, 0.3, 0.4], "only 0 pairs", None),
        ([], [], "only 0 pairs", None),
    ],
)
def test_what_cannot_be_tested_says_why(treatment, baseline, reason, interval):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = paired(np.array(treatment), np.array(baseline), 1, SEED)
    assert row["reason"] == reason
    assert np.isnan([row["p_value"], row["wilcoxon_p"], row["effect_size"]]).all()
    if interval:
        assert (row["ci_low"], row["ci_high"]) == pytest.approx(interval)
    else:
        assert np.isnan([row["ci_low"], row["ci_high"]]).all()


def test_describe_leaves_out_what_is_undefined():
    row = describe(np.array([1.0, np.nan, 3.0]))
    middle = {"median": 2.0, "minimum": 1.0, "maximum": 3.0}
    assert row == {"n": 2, "mean": 2.0, "sd": pytest.approx(2**0.5), "sem": pytest.approx(1.0)} | middle
    assert np.isnan(describe(np.array([np.nan]))["mean"])


def test_holm_by_its_definition():
    p_values = [0.01, np.nan, 0.04, 0.03, 0.005]
    known = [p for p in p_values if p == p]
    expected = []
    for p in known:
        steps = [(len(known) - rank) * q for rank, q in enumerate(sorted(known)) if q <= p]
        expected.append(min(1.0, max(steps)))
    adjusted = holm(p_values)
    assert np.isnan(adjusted[1])
    assert np.delete(adjusted, 1) == pytest.approx(expected)
    assert np.isnan(holm([np.nan, np.nan])).all()
    assert len(holm([])) == 0


def test_the_t_test_alone_is_that_of_the_pairs(scores):
    treatment, baseline = scores
    row = paired(treatment, baseline, 1, SEED)
    differences = np.append(treatment - baseline, np.nan)
    assert t_test(differences) == pytest.approx((row["difference"], row["difference_se"], row["p_value"]))
    assert t_test(np.full(5, 1e-9))[:2] == (0.0, 0.0)
    assert t_test(np.full(5, 0.5))[:2] == (0.5, 0.0)
    assert np.isnan(t_test(np.full(5, 0.5))[2])
    assert np.isnan(t_test(np.array([1.0, 2.0]))[1:]).all() and np.isnan(t_test(np.array([]))).all()
