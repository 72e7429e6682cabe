"""Paired statistics of two sets of scores, as pure functions.

Differences are ``treatment - baseline`` in the metric's own unit, one per image. ``sign`` is +1 where
higher is better, else -1. Improvements and effect sizes are therefore positive where the treatment is better
than the baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fgg.statistics.bootstrap import Interval, Intervals
from fgg.statistics.power import equivalence_p, smallest_detectable
from fgg.statistics.signed_rank import signed_rank_p

MARGIN = 0.2  # a difference with a smaller |d_z| is called small (Cohen 1988)
RESOLUTION = 1e-6  # scores are computed in float32, so smaller differences are ties
FEWEST = 3  # with fewer pairs nothing is tested

Row = dict[str, Any]


def describe(scores: np.ndarray) -> Row:
    """n, mean, sd (ddof 1), sem, median, minimum and maximum of the scores in a vector, without NaN."""
    scores = np.asarray(scores, dtype=np.float64)
    scores = scores[~np.isnan(scores)]
    n = len(scores)
    sd = float(scores.std(ddof=1)) if n > 1 else np.nan
    found = {"n": n, "mean": np.nan, "sd": sd, "sem": sd / np.sqrt(n) if n else np.nan}
    empty = dict.fromkeys(("mean", "median", "minimum", "maximum"), np.nan)
    if not n:
        return found | empty
    middle = {"median": float(np.median(scores)), "minimum": float(scores.min()), "maximum": float(scores.max())}
    return found | {"mean": float(scores.mean())} | middle


def paired(treatment: np.ndarray, baseline: np.ndarray, sign: int, seed: int, margin: float = MARGIN) -> Row:
    """Compare two score vectors (n,) whose rows are the same images: the row of `paired_later`, with its interval."""
    intervals = Intervals(seed)
    row = paired_later(treatment, baseline, sign, intervals, margin)
    intervals.settle()
    return with_interval(row)


def with_interval(row: Row) -> Row:
    """A row of `paired_later`, after its intervals have been settled: ``ci_low`` and ``ci_high`` instead of ``interval``."""
    found: Interval | None = row.pop("interval", None)
    if found is None:
        return row
    known = np.isfinite([found.low, found.high]).all()
    ends = {"ci_low": found.low, "ci_high": found.high}
    return row | ends | {"reason": "" if known else "the bootstrap interval is undefined"}


def paired_later(
    treatment: np.ndarray, baseline: np.ndarray, sign: int, intervals: Intervals, margin: float = MARGIN
) -> Row:
    """Compare two score vectors (n,) whose rows are the same images.

    Pairs with an undefined (NaN) score are left out; ``n_pairs`` and ``n_left_out`` are the two numbers of pairs. The
    other columns describe the remaining pairs: ``mean``, ``sd``, ``sem``, ``median``, ``minimum``, ``maximum`` of the
    treatment and ``baseline_mean``; the mean ``difference``, its standard error ``difference_se`` and its interval
    ``ci_low``, ``ci_high`` (see `bootstrap_interval`), which `with_interval` adds; ``improvement`` = sign x difference;
    ``improvement_pct``, relative to |baseline_mean|; ``effect_size``, Cohen's d_z = sign x mean / sd of the differences
    (ddof 1); ``p_value`` of the paired t-test; ``wilcoxon_p`` of the signed-rank test (Wilcoxon 1945: ties are dropped;
    exact where scipy's ``auto`` takes the exact distribution; NaN where all pairs are ties); ``share_improved``, which
    counts ties as not improved, and ``n_tied`` (|difference| <= 1e-6); ``smallest_detectable``, the d_z that this
    number of pairs detects with a power of 80 %; ``equivalence_p``, the p-value of the test that |d_z| is below
    ``margin`` (TOST).

    With fewer than 3 pairs, or if all differences are equal, nothing is tested: the p-values and the effect size are
    NaN, the interval is NaN or consists of the constant, and ``reason`` says why.
    """
    from scipy import stats

    treatment, baseline = (np.asarray(x, dtype=np.float64) for x in (treatment, baseline))
    both = ~(np.isnan(treatment) | np.isnan(baseline))
    kept, reference = treatment[both], baseline[both]
    differences = kept - reference
    n, mean = len(differences), float(differences.mean()) if both.any() else np.nan
    baseline_mean = float(reference.mean()) if n else np.nan
    ties = np.abs(differences) <= RESOLUTION
    row = {
        "n_pairs": n,
        "n_left_out": len(both) - n,
        **{name: value for name, value in describe(kept).items() if name != "n"},
        "baseline_mean": baseline_mean,
        "difference": mean,
        "difference_se": float(differences.std(ddof=1)) / n**0.5 if n > 1 else np.nan,
        "improvement": sign * mean + 0.0,  # no -0.0
        "improvement_pct": 100 * sign * mean / abs(baseline_mean) + 0.0 if baseline_mean else np.nan,
        "ci_low": np.nan,
        "ci_high": np.nan,
        "effect_size": np.nan,
        "p_value": np.nan,
        "wilcoxon_p": np.nan,
        "share_improved": float(np.mean((sign * differences > 0) & ~ties)) if n else np.nan,
        "n_tied": int(ties.sum()),
        "smallest_detectable": smallest_detectable(n),
        "equivalence_p": np.nan,
        "reason": "",
    }
    if n < FEWEST:
        return row | {"reason": f"only {n} pair{'s' * (n != 1)}"}
    if np.ptp(differences) <= RESOLUTION:
        reason = "identical scores" if ties.all() else "all differences are equal"
        return row | {"ci_low": mean, "ci_high": mean, "reason": reason}
    row |= {
        "interval": intervals.ask(differences),
        "effect_size": sign * effect_size(differences),
        "p_value": float(stats.ttest_1samp(differences, 0).pvalue),
        "equivalence_p": equivalence_p(differences, margin),
    }
    if not ties.all():
        row["wilcoxon_p"] = signed_rank_p(np.where(ties, 0.0, differences))
    return row


def t_test(differences: np.ndarray) -> tuple[float, float, float]:
    """Mean, standard error and two-sided p-value of paired differences (n,), of which NaN is left out.

    The p-value is NaN for fewer than 3 differences or equal ones; ties everywhere give a mean of 0.
    """
    from scipy import stats

    known = differences[~np.isnan(differences)]
    n = len(known)
    if n < FEWEST:
        return float(known.mean()) if n else float("nan"), float("nan"), float("nan")
    if np.ptp(known) <= RESOLUTION:
        return (0.0 if (np.abs(known) <= RESOLUTION).all() else float(known.mean())), 0.0, float("nan")
    return float(known.mean()), float(known.std(ddof=1)) / n**0.5, float(stats.ttest_1samp(known, 0).pvalue)


def effect_size(differences: np.ndarray) -> float:
    """Cohen's d_z: mean / standard deviation (ddof 1) of differences (n,); NaN if they are fewer than 3 or equal."""
    if len(differences) < FEWEST or np.ptp(differences) <= RESOLUTION:
        return float("nan")
    return float(differences.mean() / differences.std(ddof=1))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's (1979) step-down adjustment of a family of p-values; NaN values are not part of it and stay NaN."""
    known = np.asarray(p_values, dtype=np.float64)
    adjusted, tested = np.full(known.shape, np.nan), np.flatnonzero(~np.isnan(known))
    rising = tested[np.argsort(known[tested])]
    left = np.arange(len(rising), 0, -1)  # number of hypotheses that are not rejected yet
    adjusted[rising] = np.minimum(np.maximum.accumulate(known[rising] * left), 1)
    return adjusted
