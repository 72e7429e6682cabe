"""Dominant features, prototypes and composites as the research code has them."""

import numpy as np
import pandas as pd
import pytest
import torch

from fgg.attribution.attribute import attribute
from fgg.attribution.gate import Gate
from fgg.cases import choice, features
from fgg.cases.prototypes import collect
from fgg.faithfulness.registry import chosen

METRICS = chosen(("saco", "faithfulness_correlation", "pixel_flipping"))


@pytest.fixture(scope="module")
def main_gate(read):
    wanted = read("dominant_features.json")["config_id"]
    (stored,) = (entry for entry in read("gating_configs.json") if entry["id"] == wanted)
    gate = Gate(tuple(stored["layers"]), "combined", stored["clamp_max"], stored["alpha"])
    assert stored["gate_construction"].lower() == "combined" and not stored["shuffle_decoder"]
    return wanted, gate


@pytest.mark.parametrize("size", ["native", "map224"])
def test_dominant_features(size, main_gate, reference_model, reference_images, reference_saes, read, close):
    """From the images to the features: which patches changed most, by how much, and through which feature."""
    name, gate = main_gate
    side = {"native": reference_images.shape[2], "map224": 224}[size]
    grid = (read("meta.json")["grid"],) * 2
    before = attribute(reference_model, reference_images).relevance
    after = attribute(reference_model, reference_images, gate=gate, saes=reference_saes).relevance
    change = features.seen_relevance(after, grid, (side, side)) - features.seen_relevance(before, grid, (side, side))
    found = features.dominant_in_batch(reference_model, reference_images, gate, reference_saes, change)
    records = read("dominant_features.json")[size]
    assert len(records) == len(reference_images) * len(gate.layers)
    for record in records:
        image, own = record["image"], found[record["layer"]]
        stored = {key: [entry[key] for entry in record["features"]] for key in record["features"][0]}
        patches = features.most_changed(change, record["n_top_patches"])[image]
        assert patches.tolist() == stored["patch_idx"]
        close(change[image, patches], stored["final_patch_delta"], atol=2e-4, what=f"{name} change of {image}")
        assert own.feature[image, patches].tolist() == stored["feature_idx"]
        largest = np.abs(stored["contribution"]).max()
        close(own.contribution[image, patches], stored["contribution"], atol=1e-4 * largest, what="contribution")
        roles = [features.BOOST if value > 0 else features.SUPPRESS for value in change[image, patches]]
        assert roles == stored["role"]
        product = own.activation[image, patches] * own.gradient[image, patches]
        close(product, own.contribution[image, patches], rtol=1e-6, what="product")


def test_the_map_that_changes_are_counted_on(main_gate, read, close):
    """The stored map of the gated attribution, averaged over patches."""
    name, _ = main_gate
    stored = read("debug_sparse.npz")["map"]
    side, grid = stored.shape[-1], read("meta.json")["grid"]
    block = side // grid
    means = stored.reshape(-1, grid, block, grid, block).mean((2, 4)).reshape(len(stored), -1)
    raw = torch.from_numpy(read("gating.npz")[f"{name}_raw"])
    close(features.seen_relevance(raw, (grid, grid), (side, side)), means, atol=1e-5)


def test_the_contributions_of_active_features(reference_saes, read, close):
    """The terms of the score, from the stored activations and gradients."""
    stored = read("debug_sparse.npz")
    for layer in reference_saes:
        codes, gradients = (torch.from_numpy(stored[f"{name}_L{layer}"]) for name in ("activations", "gradients"))
        expected = stored[f"contributions_L{layer}"]
        close(features.contributions("combined", codes, gradients), expected, atol=2e-5 * np.abs(expected).max())


def test_prototypes_of_the_images(reference_model, reference_images, reference_saes, read, close):
    stored = read("feature_activation_index.json")
    layer, k = stored["layer"], stored["top_k"]
    batches = reference_images.split(4)
    found = collect(reference_model, reference_saes[layer], layer, batches, k, stored["active_feature_threshold"])
    for feature, (images, patches, activations) in enumerate(
        zip(found.image, found.patch, found.activation, strict=True)
    ):
        expected = stored["index"].get(str(feature), [])
        some = images >= 0
        pairs = list(zip(images[some].tolist(), patches[some].tolist(), strict=True))
        assert pairs == [(image, patch) for image, patch, _ in expected], feature
        close(activations[some], [activation for _, _, activation in expected], atol=2e-5, what=str(feature))


def test_composites(read, close):
    """From the metrics' own differences; the composite counts Pixel Flipping's reversed."""
    names = dict(zip(METRICS, ("delta_saco", "delta_faith", "delta_pixel"), strict=True))
    for name, record in read("comparison/per_image_improvement.json").items():
        gated = pd.DataFrame({metric: record[stored] for metric, stored in names.items()})
        gains = choice.gains(gated, gated * 0, METRICS)
        close(choice.composite(gains), record["composite_improvement"], atol=1e-10, what=name)
