"""The bootstrap interval of a mean: bias-corrected, accelerated (BCa, Efron 1987).

The result equals that of `scipy.stats.bootstrap` up to rounding. A comparison has thousands of intervals but only a few
different numbers of images. The resamples are therefore drawn once per number of images, as counts, and all their means
are one matrix product, which is a hundred times as fast. Counts and vectors are multiplied block by block, so that a
block stays in the processor's cache. Above `MOST_VALUES` values, Student's interval is used, since the two then no longer
differ visibly.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fgg.randomness import generator

LEVEL = 0.95  # confidence level of every interval
RESAMPLES = 9999
MOST_VALUES = 3000  # fewer than 256 of them are equal in any resample, so a byte holds a count
BLOCK = 2**17  # counts in a block: 1 MB as float64
TOGETHER = 256  # vectors whose resampled means are in memory at once: 20 MB
MOST_PENDING = 2**25  # values that wait for their interval: 256 MB


@dataclass(slots=True)
class Interval:
    """An interval that has been asked for; NaN until it is computed, and where it is undefined."""

    low: float = float("nan")
    high: float = float("nan")


class Intervals:
    """Intervals that are asked for one by one and computed together, so that they share resamples.

    Args:
        seed: as for `bootstrap_interval`, whose numbers do not depend on what is computed together.
        most_pending: number of values above which those that wait are computed.
    """

    def __init__(self, seed: int, most_pending: int = MOST_PENDING) -> None:
        self._seed, self._most = seed, most_pending
        self._pending: list[tuple[np.ndarray, Interval]] = []
        self._values = 0

    def ask(self, values: np.ndarray) -> Interval:
        """The interval of the mean of ``values`` (n,), with its numbers after `settle` at the latest."""
        found = Interval()
        if len(values) > MOST_VALUES:
            found.low, found.high = bootstrap_interval(values, self._seed)
            return found
        self._pending.append((values, found))
        self._values += len(values)
        if self._values > self._most:
            self.settle()
        return found

    def settle(self) -> None:
        """Compute what waits."""
        ends = bootstrap_intervals([values for values, _ in self._pending], self._seed)
        for (_, found), (low, high) in zip(self._pending, ends, strict=True):
            found.low, found.high = low, high
        self._pending, self._values = [], 0


def bootstrap_interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """The 95 % BCa interval of the mean of ``values`` (n,); NaN if all are equal, or the correction is undefined.

    Args:
        seed: together with n, it determines the resamples, which all vectors of this length share.
    """
    return bootstrap_intervals([values], seed)[0]


def bootstrap_intervals(vectors: Sequence[np.ndarray], seed: int) -> list[tuple[float, float]]:
    """The interval of each vector, as `bootstrap_interval` gives it; vectors of equal length are computed together."""
    found = [(float("nan"), float("nan"))] * len(vectors)
    places: dict[int, list[int]] = {}
    for place, values in enumerate(vectors):
        places.setdefault(len(values), []).append(place)
    for n, own in places.items():
        for first in range(0, len(own), TOGETHER):
            some = own[first : first + TOGETHER]
            means = np.array([float(vectors[place].mean()) for place in some])
            centred = np.stack([vectors[place] for place in some]) - means[:, None]
            shifts = _shifts(centred, seed) if n <= MOST_VALUES else [None] * len(some)
            for place, mean, own_centred, own_shifts in zip(some, means.tolist(), centred, shifts, strict=True):
                found[place] = _interval(mean, own_centred, own_shifts)
    return found


def _interval(mean: float, centred: np.ndarray, shifts: np.ndarray | None) -> tuple[float, float]:
    """The interval of a mean from its values' deviations (n,) and those of the resampled means; without these, Student's."""
    from scipy import stats
    from scipy.special import ndtr, ndtri

    n = len(centred)
    spread = float((centred**2).sum())
    if spread <= 0:
        return float("nan"), float("nan")
    if shifts is None:
        half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * (spread / (n - 1) / n) ** 0.5
        return mean - half, mean + half
    rounding = 1e-12 * float(np.abs(centred).max())  # resamples of few values often have exactly the same mean
    below = ((shifts < -rounding).mean() + (shifts <= rounding).mean()) / 2
    shift, acceleration = ndtri(below), float((centred**3).sum()) / 6 / spread**1.5
    tails = ndtri(np.array([1 - LEVEL, 1 + LEVEL]) / 2)
    with np.errstate(invalid="ignore"):
        ends = ndtr(shift + (shift + tails) / (1 - acceleration * (shift + tails)))
    if np.isnan(ends).any():
        return float("nan"), float("nan")
    low, high = mean + np.percentile(shifts, 100 * ends)
    return float(low), float(high)


def _shifts(centred: np.ndarray, seed: int) -> np.ndarray:
    """The means of all resamples of each row of (k, n), float64 (k, RESAMPLES)."""
    counts = _counts(centred.shape[1], seed)
    found = np.empty((len(centred), RESAMPLES))
    for rows in _blocks(centred.shape[1]):
        # Not by BLAS, whose sums depend on the number of cores.
        found[:, rows] = np.einsum("ij,kj->ki", counts[rows].astype(np.float64), centred)
    return np.divide(found, centred.shape[1], out=found)


@functools.lru_cache(maxsize=8)
def _counts(n: int, seed: int) -> np.ndarray:
    """How often each of n values occurs in each resample, uint8 (RESAMPLES, n)."""
    draw, found = generator(seed, "bootstrap", n), np.empty((RESAMPLES, n), np.uint8)
    for rows in _blocks(n):
        size = rows.stop - rows.start
        drawn = draw.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        found[rows] = np.bincount(drawn.reshape(-1), minlength=size * n).reshape(size, n)
    return found


def _blocks(n: int) -> Iterator[slice]:
    """The resamples of n values, in blocks."""
    size = max(1, BLOCK // n)
    for first in range(0, RESAMPLES, size):
        yield slice(first, min(first + size, RESAMPLES))
