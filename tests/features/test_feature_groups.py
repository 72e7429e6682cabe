"""The groups of deleted features: their order, their size, and random controls of matched activation."""

from __future__ import annotations

import numpy as np
import pytest

from fgg.features.groups import (
    GROUPS,
    LEAST,
    MATCHED,
    MOST,
    NEAREST,
    NEGATIVE,
    POSITIVE,
    SCORE,
    deletions,
    matched,
    ranked,
    spread,
)

COUNTS = [1, 2, 5, 20]


def features(seed, total=60, silent=12):
    """Scores and activations of an image, some features silent."""
    rng = np.random.default_rng(seed)
    activation = rng.lognormal(size=total)
    activation[rng.permutation(total)[:silent]] = 0
    return rng.normal(size=total) * activation, activation


def test_each_group_is_sorted_as_it_says():
    scores, activation = features(0)
    active = [f for f in range(60) if activation[f] > 0]
    found = {group: order.tolist() for group, order in ranked(scores, activation).items()}
    assert found[SCORE] == sorted(active, key=lambda f: -abs(scores[f]))
    assert found[POSITIVE] == sorted((f for f in active if scores[f] > 0), key=lambda f: -scores[f])
    assert found[NEGATIVE] == sorted((f for f in active if scores[f] < 0), key=lambda f: scores[f])
    assert found[MOST] == sorted(active, key=lambda f: -activation[f])
    assert found[LEAST] == found[MOST][::-1]


def test_of_equal_features_the_first_comes_first():
    order = ranked(np.zeros(4), np.ones(4))
    assert order[SCORE].tolist() == order[MOST].tolist() == [0, 1, 2, 3]
    assert not len(order[POSITIVE]) and not len(order[NEGATIVE])


def test_controls_are_other_active_features_and_as_many():
    scores, activation = features(1)
    found = list(deletions(scores, activation, COUNTS, 3, (0, "image")))
    assert {one.group for one in found} == set(GROUPS)
    order = ranked(scores, activation)
    for one in found:
        assert len(one.features) == len(set(one.features.tolist())) == one.k
        assert (activation[one.features] > 0).all()
        if one.group in MATCHED.values():
            group = next(name for name, control in MATCHED.items() if control == one.group)
            assert not set(one.features.tolist()) & set(order[group][: one.k].tolist())
        else:
            assert one.features.tolist() == order[one.group][: one.k].tolist()
    assert sum(one.group == "random" and one.k == 5 for one in found) == 3


def test_too_few_active_features_give_no_row():
    scores, activation = features(2, total=9, silent=2)
    found = {(one.group, one.k) for one in deletions(scores, activation, [3, 4, 7, 8], 1, (0,))}
    assert {(SCORE, 3), ("random", 3), (SCORE, 4), (SCORE, 7)} <= found
    assert ("random", 4) not in found, "three others are left"
    assert not [k for _, k in found if k == 8]
    assert not list(deletions(np.zeros(3), np.zeros(3), [1], 1, (0,)))


def test_the_draws_depend_on_the_key_alone():
    scores, activation = features(3)

    def drawn(counts, *key):
        own = deletions(scores, activation, counts, 2, key)
        return [one.features.tolist() for one in own if one.group == "random" and one.k == 5]

    assert drawn(COUNTS, 0, "a") == drawn([5], 0, "a")
    assert drawn([5], 0, "a") != drawn([5], 0, "b") != drawn([5], 1, "b")
    first, second = drawn([5], 0, "a")
    assert first != second


@pytest.mark.parametrize("seed", range(20))
def test_a_control_is_among_the_nearest_that_are_left(seed):
    """Each choice replayed, with the nearest ones found by sorting all."""
    scores, activation = features(seed)
    active = np.flatnonzero(activation > 0)
    chosen = ranked(scores, activation)[SCORE][:20]
    left = sorted(set(active.tolist()) - set(chosen.tolist()))
    found = matched(activation, chosen, np.array(left), np.random.default_rng(seed))
    for place in sorted(range(20), key=lambda i: -activation[chosen[i]]):
        near = sorted(left, key=lambda f: abs(np.log(activation[f] / activation[chosen[place]])))[:NEAREST]
        assert found[place] in near
        left.remove(int(found[place]))


def test_every_near_feature_is_drawn_at_times():
    activation = np.array([1.0, 1.01, 0.99, 1.02, 5.0, 0.1])
    rng = np.random.default_rng(0)
    drawn = [int(matched(activation, np.array([0]), np.arange(1, 6), rng)[0]) for _ in range(300)]
    assert set(drawn) == {1, 2, 3}
    assert min(drawn.count(f) for f in (1, 2, 3)) > 70


def test_the_single_features_span_the_scores():
    scores, activation = features(4)
    active = np.flatnonzero(activation > 0)
    found = spread(scores, activation, 20)
    assert len(set(found.tolist())) == 20 and (activation[found] > 0).all()
    assert scores[found[0]] == scores[active].min() and scores[found[-1]] == scores[active].max()
    assert (np.diff(scores[found]) >= 0).all()
    assert set(spread(scores, activation, 100).tolist()) == set(active.tolist())
