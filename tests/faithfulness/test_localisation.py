"""Scores against masks: scikit-learn's, all orders of equal patches one by one, chance levels; the scoring job's part."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
import torch
from sklearn.metrics import auc, average_precision_score, precision_recall_curve

import fgg
from fgg.errors import FggError
from fgg.faithfulness.registry import localising, metrics

NAMES = ("relevance_mass", "relevance_rank", "pointing_game", "average_precision", "pr_area")
BY_ORDER = NAMES[1:]


def scores(relevance, coverage):
    """The scores of one map as floats."""
    found = fgg.localisation(torch.tensor([relevance]), torch.tensor([coverage]))
    return {name: values.item() for name, values in found.items()}


def drawn(seed, patches=20, images=30):
    """Maps without ties, and masks that cover whole patches, at least one each."""
    random = np.random.default_rng(seed)
    inside = random.random((images, patches)) < 0.3
    inside[np.arange(images), random.integers(patches, size=images)] = True
    return random.normal(size=(images, patches)), inside


def by_hand(order, inside):
    """The scores that read an order, for patches in that order."""
    hits = [inside[patch] for patch in order]
    total, precision, recall = sum(hits), [1.0], [0.0]
    for count in range(1, len(hits) + 1):
        precision.append(sum(hits[:count]) / count)
        recall.append(sum(hits[:count]) / total)
    points = list(itertools.pairwise(zip(recall, precision, strict=True)))
    return {
        "relevance_rank": sum(hits[:total]) / total,
        "pointing_game": float(hits[0]),
        "average_precision": sum((b[0] - a[0]) * b[1] for a, b in points),
        "pr_area": sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in points),
    }


def test_they_are_the_metrics_that_are_given_masks():
    assert tuple(localising()) == NAMES
    assert [metrics()[name].perturbs for name in NAMES] == [False] * 5
    assert [metrics()[name].reads for name in NAMES] == ["values", *["order"] * 4]


@pytest.mark.parametrize("seed", range(3))
def test_against_scikit_learn(seed):
    relevance, inside = drawn(seed)
    found = fgg.localisation(torch.from_numpy(relevance), torch.from_numpy(inside).float())
    assert all(values.dtype == torch.float64 and values.shape == (30,) for values in found.values())
    for place, (own, true) in enumerate(zip(relevance, inside, strict=True)):
        precision, recall, _ = precision_recall_curve(true, own)
        assert found["average_precision"][place].item() == pytest.approx(average_precision_score(true, own), abs=1e-12)
        assert found["pr_area"][place].item() == pytest.approx(auc(recall, precision), abs=1e-12)


def test_ties_count_as_every_order_one_by_one():
    random = np.random.default_rng(7)
    for _ in range(25):
        relevance = random.integers(3, size=6).astype(float).tolist()
        inside = (random.random(6) < 0.5).tolist()
        inside[random.integers(6)] = True
        orders = [
            order
            for order in itertools.permutations(range(6))
            if all(relevance[a] >= relevance[b] for a, b in itertools.pairwise(order))
        ]
        expected = [by_hand(order, inside) for order in orders]
        found = scores(relevance, [float(each) for each in inside])
        for name in BY_ORDER:
            assert found[name] == pytest.approx(statistics.fmean(own[name] for own in expected), abs=1e-12), name


def test_the_mass_is_the_covered_share_of_what_is_positive():
    random = np.random.default_rng(3)
    for _ in range(10):
        relevance, coverage = random.normal(size=9), random.random(9)
        own = sum(max(r, 0) * c for r, c in zip(relevance, coverage, strict=True))
        total = sum(max(r, 0) for r in relevance)
        assert scores(relevance.tolist(), coverage.tolist())["relevance_mass"] == pytest.approx(own / total)


def test_the_mask_itself_has_full_marks_and_its_reverse_the_lowest():
    inside = [0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert scores(inside, inside) == pytest.approx(dict.fromkeys(NAMES, 1.0))
    wrong = scores([1 - each for each in inside], inside)
    assert wrong["relevance_mass"] == wrong["relevance_rank"] == wrong["pointing_game"] == 0
    assert wrong["average_precision"] == pytest.approx((1 / 6 + 2 / 7 + 3 / 8) / 3)


def test_random_maps_are_at_chance_and_a_constant_map_exactly_so():
    draw = torch.Generator().manual_seed(0)
    mask = torch.zeros(1, 12)
    mask[0, [2, 5, 6]] = 1
    constant = fgg.localisation(torch.ones(1, 12), mask)
    for name in ("relevance_mass", "relevance_rank", "pointing_game"):
        assert constant[name].item() == pytest.approx(3 / 12)
    # The expected average precision of a random order, in closed form (Bestgen 2015).
    harmonic = sum(1 / n for n in range(1, 13))
    assert constant["average_precision"].item() == pytest.approx((2 / 11 * (12 - harmonic) + harmonic) / 12)
    random = fgg.localisation(torch.rand(20_000, 12, generator=draw), mask.expand(20_000, -1))
    for name in NAMES:
        error = random[name].std().item() / math.sqrt(20_000)
        assert abs(random[name].mean().item() - constant[name].item()) < 4 * error, name


def test_what_counts_as_inside():
    relevance = [4.0, 3.0, 2.0, 1.0]
    assert scores(relevance, [0.5, 0.49, 0.0, 0.0])["relevance_rank"] == 1
    assert scores(relevance, [0.49, 0.51, 0.0, 0.0])["pointing_game"] == 0
    least = scores(relevance, [0.2, 0.1, 0.2, 0.0])  # none is half covered: the first and the third
    assert least["relevance_rank"] == 0.5 and least["pointing_game"] == 1


def test_undefined_scores():
    relevance, masks = torch.rand(4, 6), torch.zeros(4, 6)
    masks[:, 1] = 1
    relevance[0, 3], masks[1], masks[2] = torch.nan, torch.nan, 0
    for name, values in fgg.localisation(relevance, masks).items():
        assert values.isnan().tolist() == [True, True, True, False], name
    found = fgg.localisation(-torch.rand(1, 6) - 0.1, masks[3:])
    assert [name for name, values in found.items() if values.isnan().any()] == ["relevance_mass"]
    with pytest.raises(FggError, match=r"relevance is \(4, 6\) and masks are \(4, 5\)"):
        fgg.localisation(relevance, masks[:, :5])


def test_the_device_and_the_precision_of_masks_do_not_matter():
    relevance, inside = drawn(5, images=4)
    one = fgg.localisation(torch.from_numpy(relevance).float(), torch.from_numpy(inside).double())
    two = fgg.localisation(torch.from_numpy(relevance).float(), torch.from_numpy(inside).float())
    assert all(torch.equal(one[name], two[name]) for name in NAMES)
