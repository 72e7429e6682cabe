"""The public functions, given what they cannot take: one message that names the argument."""

from __future__ import annotations

import types
from fractions import Fraction

import numpy as np
import pytest
import torch
from zoo import make_images, make_model, make_sae

import fgg

MODEL = make_model()
IMAGES = make_images(MODEL)
GATE = fgg.Gate((0, 1))
RELEVANCE = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
MASKS = (RELEVANCE > 0.3).float()
ROWS = RELEVANCE.double().numpy()


BROKEN = torch.where(torch.arange(4)[:, None, None, None] == 1, torch.nan, IMAGES)
META = IMAGES.to("meta")
REFUSED = {
    "NaN pixels": (lambda: fgg.attribute(MODEL, BROKEN, "random"), "not finite .*1 of 4 images of a batch .numbers 1"),
    "infinite pixels": (lambda: fgg.saco(MODEL, BROKEN.nan_to_num(torch.inf), RELEVANCE), "not finite .*numbers 1"),
    "images on meta": (lambda: fgg.attribute(MODEL, META), "images is on the device meta, which holds no numbers"),
    "images on meta, metric": (lambda: fgg.srg(MODEL, META, RELEVANCE), "images is on the device meta"),
    "a model on meta": (lambda: fgg.attribute(make_model().to("meta"), IMAGES), "the model is on the device meta"),
    "relevance on meta": (lambda: fgg.saco(MODEL, IMAGES, RELEVANCE.to("meta")), "relevance is on the device meta"),
    "a target on meta": (lambda: fgg.attribute(MODEL, IMAGES, target=torch.tensor(1, device="meta")), "target is on the device meta"),
    "an SAE on meta": (lambda: fgg.attribute(MODEL, IMAGES, gate=fgg.Gate((0,)), saes={0: make_sae(1).to("meta")}), "SAE for layer 0 is on the device meta"),
    "nested images": (lambda: fgg.attribute(MODEL, torch.nested.nested_tensor([IMAGES[0]])), "nested tensor"),
    "sparse images": (lambda: fgg.attribute(MODEL, IMAGES.to_sparse()), r"make it dense with \.to_dense"),
    "an array of images": (lambda: fgg.attribute(MODEL, IMAGES.numpy()[:, :, ::-1]), "not a ndarray; see torch.from_numpy"),
    "a list of images": (lambda: fgg.attribute(MODEL, list(IMAGES)), "not a list"),
    "whole-number images": (lambda: fgg.attribute(MODEL, IMAGES.long()), "must be a float tensor"),
    "complex images": (lambda: fgg.attribute(MODEL, IMAGES * 1j), "must be a float tensor"),
    "model and images swapped": (lambda: fgg.attribute(IMAGES, MODEL), "the model is a Tensor"),
    "a class for a model": (lambda: fgg.attribute(type(MODEL), IMAGES), "the model is a type"),
    "a state dict": (lambda: fgg.attribute(MODEL.state_dict(), IMAGES), "the model is a OrderedDict"),
    "a wrapped model": (lambda: fgg.attribute(torch.nn.DataParallel(MODEL), IMAGES), "the model is a DataParallel"),
    "a method that is a function": (lambda: fgg.attribute(MODEL, IMAGES, lambda seen: 1), "method must be a name, .* not a function"),
    "no method": (lambda: fgg.attribute(MODEL, IMAGES, None), "method must be a name, .* not a NoneType"),
    "a list of SAEs": (lambda: fgg.attribute(MODEL, IMAGES, gate=GATE, saes=[make_sae(1)]), "saes is a list; give a dictionary"),
    "one SAE": (lambda: fgg.attribute(MODEL, IMAGES, gate=GATE, saes=make_sae(1)), "saes is a StandardSAE; give a dictionary"),
    "a misspelt argument": (lambda: fgg.attribute(MODEL, IMAGES, taget=1), "no option 'taget'"),
    "names that are a number": (lambda: fgg.attribute(MODEL, IMAGES, image_ids=5), "image_ids: 5 must be a list"),
    "too few names": (lambda: fgg.faithfulness_correlation(MODEL, IMAGES, RELEVANCE, image_ids=["a"]), "1 image_ids for 4 images"),
    "names that are None": (lambda: fgg.saco(MODEL, IMAGES, RELEVANCE, fill="noise", image_ids=[None] * 4), "None is no name"),
    "a settings table": (lambda: fgg.saco(MODEL, IMAGES, RELEVANCE, fill="black", preprocess={"mean": 1}), "preprocess is a dict; give the fgg.Preprocess"),
    "no mean": (lambda: fgg.saco(MODEL, IMAGES, RELEVANCE, fill="black", preprocess=fgg.Preprocess(32)), "mean and std are not known"),
    "another number of channels": (lambda: fgg.saco(MODEL, IMAGES, RELEVANCE, fill="black", preprocess=fgg.Preprocess(32, channels="grey", mean=[0], std=[1])), "gives 1 channels, but the images have 3"),
    "a fill beyond float32": (lambda: fgg.saco(MODEL, IMAGES, RELEVANCE, fill=1e300), "beyond the range of float32"),
    "a fill per channel": (lambda: fgg.saco(MODEL, IMAGES, RELEVANCE, fill=[0.1, 0.2, 0.3]), "is unknown; choose from"),
    "a boolean in words": (lambda: fgg.saco(MODEL, IMAGES, RELEVANCE, ranks="no"), "ranks: 'no' must be True or False"),
    "a list of correlations": (lambda: fgg.faithfulness_correlation(MODEL, IMAGES, RELEVANCE, correlation=["pearson"]), "is unknown; choose from"),
    "a masked array": (lambda: fgg.saco(MODEL, IMAGES, np.ma.masked_array(ROWS, ROWS > 0)), "masked array; put NaN"),
    "a generator": (lambda: fgg.saco(MODEL, IMAGES, (row for row in RELEVANCE)), "not a generator"),
    "texts": (lambda: fgg.saco(MODEL, IMAGES, ROWS.astype(str)), "must hold a number for each patch"),
    "dates": (lambda: fgg.saco(MODEL, IMAGES, np.zeros((4, 16), "datetime64[s]")), "must hold a number for each patch"),
    "masks of complex numbers": (lambda: fgg.localisation(RELEVANCE * 1j, MASKS), "complex"),
    "masks on meta": (lambda: fgg.localisation(RELEVANCE, MASKS.to("meta")), "masks is on the device meta"),
    "masks above 1": (lambda: fgg.localisation(RELEVANCE, MASKS * 255), "0 to 1"),
    "masks as lists": (lambda: fgg.localisation(RELEVANCE.tolist(), MASKS.tolist()), "must be float tensors"),
    "an array of pixels": (lambda: fgg.to_patches(np.ones((1, 4, 4)), 2), "must be a tensor, not a ndarray"),
    "patches of no pixels": (lambda: fgg.to_patches(IMAGES, 0), "patch_size: 0 must be a whole number, at least 1"),
    "patches of negative size": (lambda: fgg.to_patches(IMAGES, (-8, 8)), "patch_size: -8"),
    "patches in three numbers": (lambda: fgg.to_patches(IMAGES, (8, 8, 8)), "must be two numbers"),
    "patches in words": (lambda: fgg.to_patches(IMAGES, "88"), "patch_size: '88'"),
    "complex relevance": (lambda: fgg.to_pixels(RELEVANCE * 1j, 4, 32), "complex"),
    "pictures of no pixels": (lambda: fgg.to_pixels(RELEVANCE, (4, 4), (0, 32)), "size: 0 must be"),
    "a grid in three numbers": (lambda: fgg.to_pixels(RELEVANCE, (4, 4, 1), 32), "grid: .* must be two numbers"),
    "subsets for no names": (lambda: fgg.draw_subsets(None, 16, 1, 5, 4, 0), "image_ids: None must be a list"),
    "subsets without a seed": (lambda: fgg.draw_subsets(["a"], 16, 1, 5, 4, None), "seed: None must be a whole number"),
    "subsets of a world": (lambda: fgg.draw_subsets(["a"], 2**40, 1, 5, 4, 0), "more than any image has"),
    "an architecture that is none": (lambda: fgg.load_model(None), "timm has no model None"),
    "a list of arguments": (lambda: fgg.load_model("vit_tiny_patch16_224", ["depth", 1]), "must be a dictionary"),
    "weights that are a number": (lambda: fgg.load_model("vit_tiny_patch16_224", {"depth": 1}, 3), "model.weights: 3 must be"),
    "a negative number of classes": (lambda: fgg.load_model("vit_tiny_patch16_224", {"depth": 1}, num_classes=-3), "num_classes: -3 must be"),
    "half a class": (lambda: fgg.load_model("vit_tiny_patch16_224", {"depth": 1}, num_classes=2.5), "num_classes: 2.5 must be"),
    "no path": (lambda: fgg.load_sae(None), "sae.weights: None must be a path"),
    "a path of bytes": (lambda: fgg.load_sae(b"/nowhere"), "must be a path"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_one_message(case):
    call, message = REFUSED[case]
    with pytest.raises(fgg.FggError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


NO_CLASS = [
    5, -1, 1.5, True, "cat", b"1", np.nan, np.inf, 1j, 2**70, {0: 1}, [None] * 4, ["a"] * 4, [0, 1], [[0, 1, 2, 3]], [0.5] * 4,
    torch.eye(5)[:4], torch.tensor([True, False, True, False]), (number for number in range(4)), object(), types, [0, 1, 2, 5],
    np.array("1"), [np.nan] * 4,
]  # fmt: skip


@pytest.mark.parametrize("target", NO_CLASS, ids=lambda target: type(target).__name__)
def test_no_class(target):
    for call in (
        lambda: fgg.attribute(MODEL, IMAGES, target=target),
        lambda: fgg.saco(MODEL, IMAGES, RELEVANCE, target),
    ):
        with pytest.raises(fgg.FggError, match=r"target"):
            call()


NO_NUMBER = [True, np.bool_(True), torch.tensor(True), "4", b"4", 4.5, Fraction(9, 2), np.nan, np.inf, 4j, None, [4], np.array([4]),
             torch.tensor([4]), iter([4]), object(), 0, -4]  # fmt: skip


@pytest.mark.parametrize("number", NO_NUMBER, ids=lambda number: type(number).__name__)
def test_no_whole_number(number):
    curves = fgg.order_curves(MODEL, IMAGES[:1], RELEVANCE[:1])
    for call in (
        curves.mif,
        curves.lif,
        curves.insertion,
        lambda own: fgg.srg(MODEL, IMAGES[:1], RELEVANCE[:1], patches_per_step=own),
    ):
        with pytest.raises(fgg.FggError, match=r"patches_per_step: .* must be a whole number, at least 1"):
            call(number)
    for call in (
        fgg.Preprocess,
        lambda own: fgg.Preprocess((own, 4)),
        lambda own: fgg.Preprocess({"shorter": own}, crop=1),
    ):
        with pytest.raises(fgg.FggError, match=r"preprocess\.resize"):
            call(number)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 10**9}, "from 1 to 65536 pixels"),
        ({"size": (4, 4, 4)}, "is not a height and a width"),
        ({"size": None}, "is not a height and a width"),
        ({"crop": "3"}, "crop: '3' must be a number of pixels"),
        ({"crop": 0}, "crop: 0 must be a number of pixels, at least 1"),
        ({"crop": 33}, "33 is larger than the resized image"),
        ({"channels": ["rgb"]}, "channels: .* is unknown"),
        ({"interpolation": 3}, "interpolation: 3 is unknown"),
        ({"mean": "abc"}, "mean: 'abc' must be a list with a number"),
        ({"mean": 0.5}, "mean: 0.5 must be a list"),
        ({"mean": (np.inf,) * 3}, "mean: .* must be a list"),
        ({"std": (np.nan,) * 3}, "std: .* must be a list"),
        ({"std": (0.1, 0, 0.1)}, "must be above 0"),
        ({"mean": (0.5,)}, "1 values, but channels 'rgb' have 3"),
    ],
)
def test_preprocess(changes, message):
    with pytest.raises(fgg.FggError, match=message):
        fgg.Preprocess(**{"size": 32} | changes)


@pytest.mark.parametrize("image", [torch.ones(3, 9, 9), np.ones((9, 9, 3), np.uint8), "x.png", None])
def test_what_is_no_picture(image):
    with pytest.raises(fgg.FggError, match="an image must be a PIL image, not a"):
        fgg.Preprocess(32, mean=(0.5,) * 3, std=(0.5,) * 3)(image)
