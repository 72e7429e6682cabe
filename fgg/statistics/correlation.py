"""Rank correlation, as a pure function."""

from __future__ import annotations

import numpy as np


def rank_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each row of two arrays (B, N): float64 (B,); NaN where a row is constant."""
    return correlation(centred_ranks(first), centred_ranks(second))


def centred_ranks(rows: np.ndarray) -> np.ndarray:
    """The ranks in each row of an array (B, N), less their mean: float64 (B, N). Ties get their mean rank."""
    from scipy.stats import rankdata

    ranks = rankdata(rows, axis=1)
    return ranks - ranks.mean(1, keepdims=True)


def correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row of two arrays (B, N) whose rows have mean 0: float64 (B,); NaN for a row of zeros."""
    scale = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return np.divide((x * y).sum(1), scale, out=np.full(len(x), np.nan), where=scale > 0)
