"""Randomness by key: fixed for good, whatever runs beside it."""

import hashlib
import json

import numpy as np
import pytest

from fgg import randomness


def test_a_key_is_the_hash_of_its_parts():
    expected = hashlib.blake2b(json.dumps(["0", "subsets", "cell7", "2"]).encode(), digest_size=16).digest()
    assert randomness.key(0, "subsets", "cell7", 2) == sum(byte << (8 * place) for place, byte in enumerate(expected))


def test_numbers_of_a_key_never_change():
    """Tables that were written once must come out the same next year."""
    assert randomness.key(0, "random", "a") == 335303587342083901338415823599551701808
    first = randomness.generator(0, "random", "a").random(3, dtype=np.float32)
    assert first.tolist() == [0.7748489379882812, 0.11546951532363892, 0.1392230987548828]
    assert randomness.content_id(np.arange(6, dtype=np.float32).reshape(2, 3)) == "4edaf0fe20d221bc27cb2558c661fea0"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, "a", 1), (0, "a", 2)),
        ((0, "a", 1), (1, "a", 1)),
        (("a", "bc"), ("ab", "c")),
        (("a", "b"), ("a", "b", "")),
        (('a", "b',), ("a", "b")),
        (("a", "b"), ("b", "a")),
    ],
)
def test_other_parts_give_another_key(one, other):
    assert randomness.key(*one) != randomness.key(*other)
    assert randomness.generator(*one).random() != randomness.generator(*other).random()


def test_generators_are_independent_of_each_other_and_of_global_state():
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    alone = randomness.generator("x").random(5)
    other = randomness.generator("y")
    other.random(1000)
    assert (randomness.generator("x").random(5) == alone).all()
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_uniform_over_keys():
    """Neighbouring keys are not correlated: their first numbers spread evenly over 0 to 1."""
    first = np.array([randomness.generator(0, "random", str(i)).random() for i in range(2000)])
    counts = np.histogram(first, bins=10, range=(0, 1))[0]
    assert abs(counts - 200).max() < 60
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.08


def test_content_id_follows_the_values_not_the_layout():
    values = np.random.default_rng(0).random((3, 4, 5), dtype=np.float32)
    turned = np.asfortranarray(values)
    assert randomness.content_id(values) == randomness.content_id(turned) == randomness.content_id(values.copy())
    changed = values.copy()
    changed[2, 3, 4] = np.nextafter(changed[2, 3, 4], 2)
    assert randomness.content_id(values) != randomness.content_id(changed)
