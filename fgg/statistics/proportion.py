"""The interval of a proportion."""

from __future__ import annotations

import math

from fgg.statistics.bootstrap import LEVEL


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share of n, at the level of `LEVEL`; NaN if n is 0."""
    from scipy import stats

    if not n:
        return math.nan, math.nan
    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)
