"""Stratified sampling that depends only on names and a seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from fgg import randomness


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Divide ``total`` in proportion to positive weights, by the largest-remainder method.

    Each part gets at least one if ``total`` allows, at the cost of the largest part. Ties go to the first part.
    """
    exact = [total * weight / sum(weights) for weight in weights]
    sizes = [math.floor(share + 1e-9) for share in exact]  # 1e-9: 0.29 * 100 is 28.999999999999996
    by_remainder = sorted(range(len(sizes)), key=lambda i: -round(exact[i] - sizes[i], 9))
    for i in by_remainder[: total - sum(sizes)]:
        sizes[i] += 1
    while 0 in sizes and total >= len(sizes):
        sizes[sizes.index(max(sizes))] -= 1
        sizes[sizes.index(0)] += 1
    return sizes


def keyed_order(image_ids: Iterable[str], seed: int, purpose: str) -> list[str]:
    """The ids in a random order in which the relative order of two ids never changes."""
    return sorted(image_ids, key=lambda image_id: randomness.key(seed, purpose, image_id))
