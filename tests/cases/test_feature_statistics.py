"""What features do, counted again slowly: shares of the score, activity, classes, co-active features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fgg.cases import feature_statistics
from fgg.cases.feature_statistics import BINS, Activity, shares_of_score, with_pages

IMAGES, PATCHES, FEATURES = 7, 6, 9
LABELS = np.array([0, 2, 2, 0, 2, 0, 0])  # class 1 has no image
PAGES = [1, 4, 8]


@pytest.fixture
def codes():
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(IMAGES, PATCHES, FEATURES, generator=draw).relu()
    values[..., 4] = 0  # a dead feature that has a page
    values[..., 5] = values[..., 1] * 2  # always active together with feature 1
    values[..., 6] = torch.where(values[..., 1] > 0, 0.0, 1.0)  # and never
    return values


def counted(codes, step):
    highest = [codes[..., feature].max().item() for feature in PAGES]
    activity = Activity(FEATURES, PAGES, highest, 3)
    for start in range(0, IMAGES, step):
        activity.add(codes[start : start + step], LABELS[start : start + step])
    return activity


@pytest.mark.parametrize("step", [1, 3, 7])
def test_activity_is_what_loops_count(codes, step):
    activity = counted(codes, step)
    rows = codes.flatten(0, 1).tolist()
    assert activity.tokens.tolist() == [4 * PATCHES, 0, 3 * PATCHES]
    for feature in range(FEATURES):
        own = [row[feature] for row in rows if row[feature] > 0]
        assert activity.active[feature] == len(own)
        assert activity.sums[feature] == pytest.approx(sum(own), rel=1e-6)
    for at, feature in enumerate(PAGES):
        for label in range(3):
            total = sum(
                codes[image, patch, feature].item()
                for image in range(IMAGES)
                for patch in range(PATCHES)
                if LABELS[image] == label
            )
            assert activity.class_sums[at, label] == pytest.approx(total, rel=1e-6)
        own = np.array([row[feature] for row in rows if row[feature] > 0])
        expected, _ = np.histogram(own, bins=BINS, range=(0, own.max() if own.size else 1))
        assert activity.histogram[at].sum() == own.size
        assert np.abs(activity.histogram[at] - expected).sum() <= 2, "up to a value on the edge between two bars"


def test_partners_by_sets_of_patches(codes):
    activity = counted(codes, 2)
    rows = codes.flatten(0, 1)
    sets = [set(torch.nonzero(rows[:, feature])[:, 0].tolist()) for feature in range(FEATURES)]
    for at, feature in enumerate(PAGES):
        expected = {
            other: len(sets[feature] & sets[other]) / len(sets[feature] | sets[other])
            for other in range(FEATURES)
            if other != feature and sets[feature] & sets[other]
        }
        found = activity.partners(at)
        assert {other: value for other, value, _ in found} == pytest.approx(expected)
        values = [value for _, value, _ in found]
        assert values == sorted(values, reverse=True)
    first = activity.partners(0)
    assert first[0][:2] == (5, 1.0), "the feature that is always active together"
    assert 6 not in [other for other, _, _ in first] and not activity.partners(1)


def test_jaccard_by_chance_is_that_of_independent_features():
    """Drawn independently, the measured index and the one by chance agree up to the error of the draw."""
    draw = torch.Generator().manual_seed(1)
    codes = (torch.rand(400, 100, 2, generator=draw) < torch.tensor([0.3, 0.1])).float()
    activity = Activity(2, [0], [1.0], 1)
    activity.add(codes, np.zeros(400, dtype=np.int64))
    ((other, jaccard, chance),) = activity.partners(0)
    assert other == 1
    assert chance == pytest.approx(0.3 * 0.1 / (0.3 + 0.1 - 0.3 * 0.1), abs=0.004)
    assert jaccard == pytest.approx(chance, abs=0.009), "four standard errors of about 1200 common patches"


def test_shares_of_the_score_patch_by_patch():
    draw = torch.Generator().manual_seed(2)
    terms = torch.randn(5, PATCHES, FEATURES, generator=draw)
    terms[2, 3] = 0  # a patch without a score
    rows = [row for row in terms.flatten(0, 1).tolist() if any(row)]
    expected = [
        sum(abs(row[feature]) / sum(abs(value) for value in row) for row in rows) / len(rows)
        for feature in range(FEATURES)
    ]
    for parts in (terms.split(5), terms.split(2)):
        found = shares_of_score(parts)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert found.sum() == pytest.approx(1)
    assert not shares_of_score([torch.zeros(2, 3, 4)]).any()


def test_which_features_get_a_page():
    shares = np.array([0.1, 0.4, 0.0, 0.4, 0.1])
    assert with_pages(shares, {2}, 2) == [1, 2, 3]
    assert with_pages(shares, set(), 5) == [0, 1, 3, 4], "none without any share"
    assert with_pages(shares, {4}, 0) == [4]


def test_few_images_at_a_time_change_nothing(model, images, saes, monkeypatch):
    """Codes and terms do not depend on how many are in memory at once; terms add up to the gate's score."""
    from fgg import gating
    from fgg.models.capture import capture

    target = torch.zeros(len(images), dtype=torch.int64)
    run = feature_statistics.Run(model, saes[0], 0, 4, "fp32")
    whole = torch.cat(list(run.terms(images, target))), torch.cat(list(run.codes(images)))
    monkeypatch.setattr(feature_statistics, "MOST_FLOATS", 1)
    single = list(run.terms(images, target))
    assert len(single) == len(images)
    torch.testing.assert_close(torch.cat(single), whole[0])
    torch.testing.assert_close(torch.cat(list(run.codes(images))), whole[1])
    seen = capture(model, images, target, layers=[0])
    first = model.num_prefix_tokens
    residual, gradient = seen.residuals[0][:, first:], seen.gradients[0][:, first:]
    score = gating.score("combined", residual, gradient, saes[0].encode(residual), saes[0].W_dec)
    torch.testing.assert_close(whole[0].sum(-1), score.detach(), atol=1e-5, rtol=1e-4)
