"""Which features of an image are deleted together: the best by some order, and random ones of matched activation.

Symbols: F features of an SAE. A feature's *score* on an image is its term in the gate's score, summed over the patches; its
*activation* is summed too. Only features that are active at some patch are chosen.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fgg.randomness import generator

SCORE, POSITIVE, NEGATIVE, MOST, LEAST = "score", "positive", "negative", "most_active", "least_active"
MATCHED = {SCORE: "random", POSITIVE: "random_positive", NEGATIVE: "random_negative"}  # group -> its random control
GROUPS = (SCORE, "random", POSITIVE, "random_positive", NEGATIVE, "random_negative", MOST, LEAST)
NEAREST = 3  # of so many features of the nearest activation, one is drawn


@dataclass(frozen=True)
class Deletion:
    """Features that are deleted together.

    Attributes:
        group: one of `GROUPS`.
        k: how many.
        features: int64 (k,).
    """

    group: str
    k: int
    features: np.ndarray


def ranked(scores: np.ndarray, activation: np.ndarray) -> dict[str, np.ndarray]:
    """The active features of an image in the order of each group, from scores (F,) and activations (F,).

    ``score``: largest absolute score first; ``positive`` and ``negative``: only those with a score of this sign, the
    strongest first; ``most_active`` and ``least_active``. Of equals, the feature with the smaller number comes first.
    """
    active = np.flatnonzero(activation > 0)

    def by(values: np.ndarray, among: np.ndarray = active) -> np.ndarray:
        return among[np.argsort(values[among], kind="stable")]

    return {
        SCORE: by(-np.abs(scores)),
        POSITIVE: by(-scores, active[scores[active] > 0]),
        NEGATIVE: by(scores, active[scores[active] < 0]),
        MOST: by(-activation),
        LEAST: by(activation),
    }


def deletions(
    scores: np.ndarray, activation: np.ndarray, counts: Sequence[int], draws: int, key: tuple[str | int, ...]
) -> Iterator[Deletion]:
    """What is deleted from an image, for every group and every k for which it has enough active features.

    A random control is drawn ``draws`` times. It holds none of the features that it is compared with, so an image needs
    twice as many active features for it.

    Args:
        scores: (F,).
        activation: (F,), not negative.
        counts: the k.
        draws: draws of a random control.
        key: what the draws depend on, beside group, k and number of the draw.
    """
    active = np.flatnonzero(activation > 0)
    for group, order in ranked(scores, activation).items():
        for k in (k for k in counts if k <= len(order)):
            chosen = order[:k]
            yield Deletion(group, k, chosen)
            others = np.setdiff1d(active, chosen)
            if group in MATCHED and len(others) >= k:
                for draw in range(draws):
                    rng = generator(*key, group, k, draw)
                    yield Deletion(MATCHED[group], k, matched(activation, chosen, others, rng))


def matched(activation: np.ndarray, chosen: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each chosen feature another one of similar activation, each at most once: int64 (k,), in the chosen ones' order.

    Starting with the most active one, a feature is drawn from the `NEAREST` that are left whose activations have the
    ratio nearest to 1.

    Args:
        activation: (F,), positive for all of these features.
        chosen: int64 (k,).
        others: int64 (m,), at least k features.
    """
    rising = others[np.argsort(activation[others], kind="stable")]
    left, levels = rising.tolist(), np.log(activation[rising]).tolist()
    found = np.empty(len(chosen), dtype=np.int64)
    for place in np.argsort(-activation[chosen], kind="stable"):
        level = float(np.log(activation[chosen[place]]))
        low = high = bisect_left(levels, level)  # the window [low, high) grows towards the nearer side
        while high - low < min(NEAREST, len(left)):
            if high == len(left) or (low > 0 and level - levels[low - 1] <= levels[high] - level):
                low -= 1
            else:
                high += 1
        drawn = int(rng.integers(low, high))
        found[place] = left.pop(drawn)
        levels.pop(drawn)
    return found


def spread(scores: np.ndarray, activation: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` active features, evenly spread over the ranks of the scores (F,), the lowest and the highest included."""
    active = np.flatnonzero(activation > 0)
    rising = active[np.argsort(scores[active], kind="stable")]
    if len(rising) <= most:
        return rising
    return rising[np.round(np.linspace(0, len(rising) - 1, most)).astype(np.int64)]
