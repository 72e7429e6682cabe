"""The signed-rank test of paired differences (Wilcoxon 1945)."""

from __future__ import annotations

import numpy as np

MOST_PAIRS = 13  # up to here scipy permutes signs where values are tied, with a Python call for each of the 2**n


def signed_rank_p(differences: np.ndarray) -> float:
    """The two-sided p-value for differences (n,), float64, of which zeros are dropped, as ``scipy.stats.wilcoxon`` gives it.

    Few differences with zeros or ties among them have an exact distribution, which is counted here: the number of sets of
    ranks with each sum, rank by rank. This is a thousand times as fast as scipy's permutations and gives the same number.

    Raises:
        ValueError: all differences are zero.
    """
    from scipy import stats

    known = differences[differences != 0]
    if not len(known):
        raise ValueError("all differences are zero")
    sizes = np.abs(known)
    if len(differences) > MOST_PAIRS or len(np.unique(sizes)) == len(differences):
        return float(stats.wilcoxon(differences, zero_method="wilcox").pvalue)
    ranks = np.rint(2 * stats.rankdata(sizes)).astype(np.int64)  # twice the ranks: those of ties may end in a half
    ways = np.ones(1, dtype=np.int64)  # sum of the ranks of positive differences -> number of choices of signs
    for rank in ranks:
        ways = np.pad(ways, (0, rank)) + np.pad(ways, (rank, 0))
    found = ranks[known > 0].sum()
    fewer = min(ways[: found + 1].sum(), ways[found:].sum())
    return min(1.0, 2 * int(fewer) / 2 ** len(known))
