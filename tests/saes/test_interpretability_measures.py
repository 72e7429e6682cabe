"""Whether features lie together and mean one thing: known answers, slow definitions, and ViSAEBench's numbers."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from slow_sae_measures import FEATURES, WIDTH, drawn, random_sae, slow_monosemanticity, slow_moran, weights

from fgg.saes.monosemanticity import ClassSelectivity, Monosemanticity
from fgg.saes.spatial import Spatial, morans_i

LAYER = 1
CPU = torch.device("cpu")


# ---- spatial autocorrelation


@pytest.mark.parametrize("corners", [False, True], ids=["rook", "queen"])
@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (1, 6), (7, 2)], ids=str)
def test_morans_i_by_its_formula(grid, corners):
    maps = drawn(3, grid[0] * grid[1]).clamp(min=0)
    wanted = [slow_moran(own.numpy(), weights(grid, corners)) for own in maps]
    assert morans_i(maps, grid, corners).tolist() == pytest.approx(wanted, abs=1e-10)


def test_maps_whose_value_is_known():
    row, column = torch.arange(10)[:, None], torch.arange(10)[None]
    board = ((row + column) % 2).float().flatten()
    assert float(morans_i(board, (10, 10))) == pytest.approx(-1)
    gradient = torch.arange(60.0)[:, None].expand(60, 60).flatten()
    assert 0.98 < float(morans_i(gradient, (60, 60))) < 1
    halves = (row < 5).expand(10, 10).float().flatten()
    assert float(morans_i(halves, (10, 10))) == pytest.approx(1 - 2 * 10 / 180), "10 of 180 pairs differ"
    assert morans_i(torch.full((100,), 0.1), (10, 10)).isnan()
    assert morans_i(torch.zeros(1), (1, 1)).isnan()


def test_the_expectation_of_a_random_order():
    """Over all orders of six values, exactly."""
    maps = torch.tensor([list(order) for order in itertools.permutations((0.0, 0.0, 1.0, 2.0, 5.0, 7.0))])
    for corners in (False, True):
        assert float(morans_i(maps, (2, 3), corners).mean()) == pytest.approx(-1 / 5)
    spatial = Spatial(1, (2, 3))
    assert spatial.result()["morans_i_random"] == pytest.approx(-1 / 5)


def planted_codes():
    """Four images of 6 x 6 patches and six features, whose maps are all of different kinds."""
    codes = torch.zeros(4, 36, 6)
    grid = codes.unflatten(1, (6, 6))
    grid[:, :3, :, 0] = 1.0  # a region
    grid[:, ::2, ::2, 1] = grid[:, 1::2, 1::2, 1] = 2.0  # a checkerboard
    codes[:, :, 2] = 0.3  # constant
    codes[0, 5, 3] = 1.0  # a single patch
    codes[1, :, 4] = torch.arange(1.0, 37)  # everywhere, but not constant
    return codes  # feature 5 is dead


def test_which_maps_count():
    spatial = Spatial(6, (6, 6))
    codes = planted_codes()
    spatial.update(codes[:3])
    spatial.update(codes[3:])
    found = spatial.result()
    region, board = morans_i(codes[0, :, 0], (6, 6)), morans_i(codes[0, :, 1], (6, 6))
    assert float(board) == pytest.approx(-1) and float(region) > 0.7
    assert found["morans_i"] == pytest.approx(float(region + board) / 2)
    assert (found["morans_i_features"], found["morans_i_maps"]) == (2, 8)
    assert (found["maps_constant"], found["maps_few"], found["maps_many"]) == (4, 1, 1)
    empty = Spatial(6, (6, 6))
    empty.update(0 * codes)
    assert math.isnan(empty.result()["morans_i"]) and empty.result()["morans_i_features"] == 0


def test_morans_i_as_in_visaebench():
    from visaebench.metrics.spatial_coherence import localization

    codes = drawn(5, 36, 8, seed=3).clamp(min=0) * (drawn(5, 36, 8, seed=4) > -0.2)
    for corners in (False, True):
        w = torch.from_numpy(weights((6, 6), corners)).float()
        theirs, valid = localization._compute_morans_i_batch(codes, w, 36, float(w.sum()), 1, 36)
        assert valid.all()
        assert torch.allclose(morans_i(codes.transpose(1, 2), (6, 6), corners).float(), theirs, atol=1e-5)
    assert torch.equal(localization._build_weight_matrix(6, 6).double(), torch.from_numpy(weights((6, 6), True)))


def test_the_mean_over_features_as_in_visaebench():
    from visaebench.metrics.spatial_coherence.localization import FeatureLocalization

    sae, images = random_sae(), drawn(12, 36, WIDTH, seed=5).cumsum(1) / 3
    theirs = FeatureLocalization((6, 6), min_images_per_feature=1).compute(sae, images, device="cpu")
    spatial = Spatial(FEATURES, (6, 6))
    for part in images.split(5):
        spatial.update(sae.encode(part))
    found = spatial.result()
    assert found["morans_i_features"] == theirs.metadata["num_evaluable_features"] > 5
    assert found["morans_i_queen"] == pytest.approx(theirs.value, abs=1e-5)


# ---- monosemanticity


def scored(activations, embeddings, size=4):
    found = Monosemanticity(activations.shape[1], embeddings.shape[1])
    for a, e in zip(activations.split(size), embeddings.split(size), strict=True):
        found.update(a, e)
    return found


def test_monosemanticity_by_its_formula():
    activations = drawn(11, 4).clamp(min=0) + torch.tensor([0, 0, 0.5, 3])  # two of them are never 0
    embeddings = drawn(11, 5, seed=1) + 0.5
    wanted = [slow_monosemanticity(own, embeddings) for own in activations.T]
    assert scored(activations, embeddings).scores().tolist() == pytest.approx(wanted, abs=1e-9)


def test_a_feature_of_one_kind_of_image_scores_above_random_ones():
    kinds = torch.arange(60) % 3
    embeddings = torch.eye(3)[kinds] + 0.1 * drawn(60, 3)
    pure = (kinds == 1).float() * (1 + drawn(60, seed=2).abs())
    found = scored(torch.stack([pure, drawn(60, seed=3).abs()], dim=1), embeddings)
    one, other = found.scores().tolist()
    control = found.result()["monosemanticity_random"]
    assert one > 0.9 and other == pytest.approx(control, abs=0.1) and control < 0.5


def test_the_control_is_the_expectation_of_a_random_order():
    """Over all orders of six activations, exactly; and it is the mean similarity of all pairs."""
    embeddings = drawn(6, 4)
    orders = torch.tensor(list(itertools.permutations((0.0, 0.0, 1.0, 2.0, 5.0, 7.0)))).T
    found = scored(orders, embeddings)
    control = found.result()["monosemanticity_random"]
    assert float(found.scores().mean()) == pytest.approx(control)
    pairs = [(embeddings[i], embeddings[j]) for i in range(6) for j in range(6) if i != j]
    alike = [float(torch.cosine_similarity(one, other, dim=0)) for one, other in pairs]
    assert control == pytest.approx(np.mean(alike), abs=1e-6)


def test_features_without_two_images_have_no_score():
    activations = torch.zeros(8, 4)
    activations[3, 1] = 0.7  # one image
    activations[:, 2] = 0.1  # the same on all
    activations[2:4, 3] = 0.2
    found = scored(activations, drawn(8, 5))
    assert found.scores().isnan().tolist() == [True, True, True, False]
    assert found.result()["monosemanticity_features"] == 1
    assert math.isnan(scored(torch.zeros(8, 4), drawn(8, 5)).result()["monosemanticity"])


def test_monosemanticity_as_in_visaebench():
    """With as many top images as there are, ViSAEBench scores all pairs, as Pach et al. define it."""
    from visaebench.metrics.concept_detection.monosemanticity import MonosemanticityScore

    sae, patches = random_sae(), drawn(9, 16, WIDTH, seed=6)
    tokens = drawn(9, 4, 7, seed=7) + 0.3
    backbone = SimpleNamespace(extract_activations=lambda images, layer: torch.stack(images))
    theirs = MonosemanticityScore(top_k_images=9).compute(
        sae, patches, device="cpu", images=list(tokens), evaluator_backbone=backbone
    )
    found = scored(sae.encode(patches).amax(1), tokens.mean(1)).result()
    assert found["monosemanticity"] == pytest.approx(theirs.value, abs=1e-5)
    assert found["monosemanticity_features"] == theirs.metadata["num_features_scored"]


# ---- selectivity for classes


def test_selectivity_for_classes():
    labels = np.repeat([0, 1, 2, 5], 6)  # classes 3 and 4 have no images
    activations = torch.zeros(24, 3)
    activations[labels == 5, 0] = 2.0
    activations[:, 1] = 1.0
    found = ClassSelectivity(3, labels, seed=0)
    found.update(activations[:10])
    found.update(activations[10:])
    result = found.result()
    assert result["class_selectivity"] == pytest.approx(0.5), "1 for the first, 0 for the second; the third is dead"
    assert 0 < result["class_selectivity_random"] < 0.5
    mixed = ClassSelectivity(1, labels, seed=0)
    own = torch.from_numpy(np.select([labels == 0, labels == 1], [3.0, 1.0], 0.0))[:, None]
    mixed.update(own)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert mixed.result()["class_selectivity"] == pytest.approx(1 - entropy / math.log(4))


@pytest.mark.parametrize("labels", [[0, 0, 0, 1, 1, 1], [2] * 30], ids=["too few images", "one class"])
def test_no_selectivity_without_enough_images_or_classes(labels):
    found = ClassSelectivity(2, np.array(labels), seed=0)
    found.update(torch.ones(len(labels), 2))
    assert all(math.isnan(value) for value in found.result().values())
