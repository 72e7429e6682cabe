"""Shares by largest remainders, and orders by key."""

import random

import pytest

from fgg.data.stratified import apportion, keyed_order


@pytest.mark.parametrize(
    ("total", "weights", "expected"),
    [
        (10, [0.7, 0.15, 0.15], [7, 2, 1]),
        (3, [0.7, 0.15, 0.15], [1, 1, 1]),
        (2, [0.7, 0.15, 0.15], [2, 0, 0]),
        (100, [0.29, 0.71], [29, 71]),
        (200, [369, 705, 452, 1098], [28, 54, 34, 84]),
        (4, [1000, 1, 1], [2, 1, 1]),
        (0, [1, 1], [0, 0]),
    ],
)
def test_apportion(total, weights, expected):
    assert apportion(total, weights) == expected


def test_apportion_never_exceeds_what_there_is():
    rng = random.Random(0)
    for _ in range(300):
        have = [rng.randint(1, 40) for _ in range(rng.randint(1, 6))]
        total = rng.randint(0, sum(have))
        got = apportion(total, have)
        assert sum(got) == total
        assert all(0 <= g <= h for g, h in zip(got, have, strict=True))
        assert total < len(have) or min(got) >= 1


def test_keyed_order_depends_on_ids_alone():
    ids = [f"image{i}" for i in range(50)]
    order = keyed_order(ids, 0, "split")
    assert keyed_order(reversed(ids), 0, "split") == order
    assert [i for i in order if i != "image7"] == keyed_order([i for i in ids if i != "image7"], 0, "split")
    assert order != keyed_order(ids, 1, "split") != keyed_order(ids, 0, "subset") != order
