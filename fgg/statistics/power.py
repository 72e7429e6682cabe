"""The effects that a paired comparison can detect, and tests of whether a difference is small."""

from __future__ import annotations

import functools

import numpy as np

POWER = 0.8
ALPHA = 0.05  # smaller p-values are significant


@functools.lru_cache(maxsize=256)
def smallest_detectable(n: int) -> float:
    """The effect size d_z that a two-sided paired t-test of n pairs finds significant at 5 % with a power of 80 %.

    NaN with fewer than 3 pairs. The value is for a single test; after adjustment for several tests, larger effects are
    needed.
    """
    from scipy import optimize, stats

    if n < 3:
        return float("nan")
    critical = stats.t.ppf(1 - ALPHA / 2, n - 1)

    def lacking(effect: float) -> float:
        shift = effect * n**0.5
        found = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
        return float(found) - POWER

    enough = (2 * critical + 3) / n**0.5  # beyond it, scipy's noncentral t gives NaN with few pairs
    return float(optimize.brentq(lacking, 1e-6, enough))


def equivalence_p(differences: np.ndarray, margin: float) -> float:
    """The p-value of two one-sided tests (TOST, Schuirmann 1987) that the mean difference is within ± margin.

    Args:
        differences: paired differences (n,), not all equal.
        margin: in standard deviations of the differences, the unit of d_z.
    """
    from scipy import stats

    n, scale = len(differences), float(differences.std(ddof=1))
    effect = float(differences.mean()) / scale
    below, above = (effect + margin) * n**0.5, (effect - margin) * n**0.5
    return float(max(stats.t.sf(below, n - 1), stats.t.cdf(above, n - 1)))
