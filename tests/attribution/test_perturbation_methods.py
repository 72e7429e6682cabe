"""Occlusion, RISE and KernelSHAP against slow computations that fill pixels, and against captum."""

import itertools
import math

import captum.attr
import numpy as np
import pytest
import torch

import fgg
from fgg.attribution.kernel_shap import all_coalitions, coalitions, shapley
from fgg.attribution.rise import kept_patches
from fgg.errors import FggError
from fgg.models.vit import patch_size

IDS = ["a", "b", "c", "d"]


def probability(model, image, kept, target):
    """The class's probability with the other patches filled by the image's mean, on pixels."""
    height, width = patch_size(model)
    columns = image.shape[2] // width
    filled = image.clone()
    for patch, keep in enumerate(kept):
        if not keep:
            top, left = patch // columns * height, patch % columns * width
            filled[:, top : top + height, left : left + width] = image.mean()
    with torch.no_grad():
        return float(model(filled[None]).softmax(-1)[0, target])


def test_occlusion(model, images):
    patches = model.patch_embed.num_patches
    found = fgg.attribute(model, images, "occlusion", target=1).relevance
    for index in (0, 3):
        whole = probability(model, images[index], [True] * patches, 1)
        expected = [
            whole - probability(model, images[index], [other != patch for other in range(patches)], 1)
            for patch in range(patches)
        ]
        np.testing.assert_allclose(found[index], expected, atol=2e-6)
        assert np.ptp(expected) > 1e-3


def test_occlusion_by_removal_differs(plain, pictures):
    mean, removal = (fgg.attribute(plain, pictures, "occlusion", fill=fill).relevance for fill in ("mean", "removal"))
    assert not torch.allclose(mean, removal, atol=1e-3)


def test_rise(model, images):
    patches, grid = model.patch_embed.num_patches, model.patch_embed.grid_size
    found = fgg.attribute(model, images, "rise", target=1, image_ids=IDS, samples=12, seed=3).relevance
    for index in (0, 3):
        total, count = np.zeros(patches), np.zeros(patches)
        for kept in kept_patches(IDS[index], 3, 12, grid, 2, 0.5):
            total += probability(model, images[index], kept, 1) * kept
            count += kept
        expected = np.divide(total, count, out=np.zeros(patches), where=count > 0)
        np.testing.assert_allclose(found[index], expected, atol=2e-6)


def test_the_masks_of_rise():
    masks = kept_patches("a", 0, 4000, (5, 7), 3, 0.3).reshape(-1, 5, 7)
    np.testing.assert_allclose(masks.mean(0), 0.3, atol=0.03)
    # Neighbours are in the same cell of three patches in two thirds of the cases.
    same = (masks[:, :, 1:] == masks[:, :, :-1]).mean()
    assert same == pytest.approx(2 / 3 + (0.3**2 + 0.7**2) / 3, abs=0.02)


def exact_shapley(model, image, target):
    """By the definition, over all coalitions."""
    patches = model.patch_embed.num_patches
    values = {
        kept: probability(model, image, kept, target) for kept in itertools.product([False, True], repeat=patches)
    }
    found = []
    for patch in range(patches):
        total = 0.0
        for kept, value in values.items():
            if not kept[patch]:
                size = sum(kept)
                weight = math.factorial(size) * math.factorial(patches - size - 1) / math.factorial(patches)
                total += weight * (values[(*kept[:patch], True, *kept[patch + 1 :])] - value)
        found.append(total)
    return np.array(found)


@pytest.fixture(scope="module")
def nine(make_model, make_images):
    """A model with nine patches, and images."""
    model = make_model(img_size=24)
    return model, make_images(model)


def test_kernel_shap_is_exact_with_all_coalitions(nine):
    model, images = nine
    found = fgg.attribute(model, images[:2], "kernel_shap", target=1).relevance
    for index in range(2):
        expected = exact_shapley(model, images[index], 1)
        np.testing.assert_allclose(found[index], expected, atol=1e-5)
        assert np.abs(expected).max() > 1e-3


def test_kernel_shap_by_samples(nine):
    """With 500 of 510 coalitions' worth of samples it is near; the values always add up."""
    model, images = nine
    exact = fgg.attribute(model, images, "kernel_shap", target=1).relevance
    near = fgg.attribute(model, images, "kernel_shap", target=1, samples=500, image_ids=IDS).relevance
    assert float((near - exact).norm() / exact.norm()) < 0.25
    torch.testing.assert_close(near.sum(1), exact.sum(1), atol=1e-6, rtol=0)


def test_kernel_shap_against_captum(nine):
    """Captum draws coalitions too; with many, both are at the exact values."""
    model, images = nine
    grid = torch.arange(9).view(1, 1, 3, 3).repeat_interleave(8, 2).repeat_interleave(8, 3)
    torch.manual_seed(0)
    theirs = captum.attr.KernelShap(lambda x: model(x).softmax(-1)).attribute(
        images[:1], baselines=images[:1].mean(), target=1, feature_mask=grid.expand(1, 3, 24, 24), n_samples=3000
    )
    expected = theirs[0, 0, ::8, ::8].flatten()
    found = fgg.attribute(model, images[:1], "kernel_shap", target=1).relevance[0]
    assert float((found - expected).norm() / expected.norm()) < 0.05


def test_the_solver_finds_an_additive_game():
    """Values that are a sum over the members are found exactly, from any coalitions that span them."""
    worth = torch.tensor([0.5, -1.0, 2.0, 0.0, 0.25, 3.0], dtype=torch.float64)
    drawn = torch.from_numpy(np.stack([coalitions(name, 0, 40, 6) for name in "ab"]))
    values = (drawn.double() * worth).sum(-1)
    found = shapley(drawn, values, worth.sum().expand(2), torch.full((40,), 1 / 40, dtype=torch.float64))
    torch.testing.assert_close(found, worth.expand(2, -1), atol=1e-10, rtol=0)


def test_sizes_of_coalitions_follow_the_kernel():
    drawn = coalitions("a", 1, 20000, 8)
    sizes = np.bincount(drawn.sum(1), minlength=8)[1:] / len(drawn)
    weights = np.array([1 / (k * (8 - k)) for k in range(1, 8)])
    np.testing.assert_allclose(sizes, weights / weights.sum(), atol=0.01)
    np.testing.assert_allclose(drawn.mean(0), 0.5, atol=1e-12)  # each with its complement
    kept, own = all_coalitions(8)
    by_size = np.bincount(kept.sum(1), own, minlength=8)[1:]
    np.testing.assert_allclose(by_size, weights / weights.sum())


@pytest.mark.parametrize(
    ("method", "options", "names"),
    [
        ("kernel_shap", {"samples": 20}, "20 samples are too few for 16 patches"),
        ("rise", {"keep": 1.0}, "keep 1.0"),
        ("rise", {"cell": 0}, "cell 0"),
        ("occlusion", {"fill": "grey"}, "'grey' is unknown"),
        ("occlusion", {"fill": "training_mean"}, "training_mean"),
        ("smoothgrad", {"samples": 0}, "samples 0"),
        ("smoothgrad", {"samples": 2.5}, r"samples 2\.5 must be a whole number"),
        ("rise", {"samples": True}, "samples True must be a whole number"),
        ("rise", {"keep": "a"}, "keep 'a' must be a finite number"),
        ("integrated_gradients", {"baseline": float("inf")}, "baseline inf must be a finite number"),
        ("input_x_gradient", {"layers": 2}, "layers 2 must be different whole numbers"),
        ("input_x_gradient", {"layers": ()}, "must be different whole numbers"),
        ("input_x_gradient", {"layers": (1, 1)}, "must be different whole numbers"),
        ("input_x_gradient", {"gate": fgg.Gate((1,), "no_sae"), "layers": (0,)}, "the gate determines the layers"),
        ("integrated_gradients", {"steps": 0}, "steps 0"),
        ("input_x_gradient", {"layers": (9,)}, r"layers \(9,\) is beyond the model.s depth 4"),
    ],
)
def test_refusals(method, options, names, plain, pictures):
    with pytest.raises(FggError, match=names):
        fgg.attribute(plain, pictures, method, **options)


@pytest.mark.parametrize("method", ["rise", "kernel_shap", "occlusion"])
def test_removal_of_everything_from_a_pooling_model(method, make_model, make_images):
    """No token is left to read; the image's mean stands for it, and the map stays defined."""
    model = make_model(class_token=False, global_pool="avg", img_size=24)
    found = fgg.attribute(model, make_images(model), method, fill="removal", image_ids=IDS)
    assert found.relevance.isfinite().all()


@pytest.mark.parametrize("method", ["rise", "kernel_shap", "smoothgrad", "integrated_gradients"])
def test_no_images_and_inference_mode(method, plain, pictures):
    assert fgg.attribute(plain, pictures[:0], method).relevance.shape == (0, 16)
    options = {"smoothgrad": {"samples": 2}, "integrated_gradients": {"steps": 2}}.get(method, {})
    with torch.inference_mode():
        inside = fgg.attribute(plain, pictures[:1], method, image_ids=["a"], **options).relevance
    assert torch.equal(inside, fgg.attribute(plain, pictures[:1], method, image_ids=["a"], **options).relevance)


def test_one_patch(make_model):
    model = make_model(img_size=8)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    alone = fgg.attribute(model, images, "occlusion", target=1).relevance
    torch.testing.assert_close(fgg.attribute(model, images, "kernel_shap", target=1).relevance, alone)
