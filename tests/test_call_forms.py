"""The public functions with tensors, numbers, classes and names in forms that people bring: the same result, or one message."""

from __future__ import annotations

import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from zoo import make_images, make_model, make_sae

import fgg

warnings.filterwarnings("ignore", category=UserWarning)
MODEL = make_model()
IMAGES = make_images(MODEL)
GATE, SAES = fgg.Gate((0, 1)), {0: make_sae(10), 1: make_sae(11, "layer_norm")}
RELEVANCE = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
MASKS = (RELEVANCE > 0.3).float()
BLACK = Image.new("L", (9, 9))


class Sub(torch.Tensor):
    """As of a library of annotated tensors."""


def inference(tensor):
    with torch.inference_mode():
        return tensor.clone()


FORMS = {
    "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t.T.contiguous().T,
    "every second": lambda t: t.repeat_interleave(2, 0)[::2],
    "a leaf with a gradient": lambda t: t.clone().requires_grad_(),
    "a result with a history": lambda t: t.clone().requires_grad_() * 1,
    "inference": inference,
    "a subclass": lambda t: t.as_subclass(Sub),
    "a parameter": lambda t: torch.nn.Parameter(t.clone()),
    "negated lazily": lambda t: torch._neg_view(-t),
    "expanded": lambda t: t[None].expand(3, *t.shape)[1],
}

CALLS = {
    "attribute": lambda i, r: fgg.attribute(MODEL, i).relevance,
    "gated": lambda i, r: fgg.attribute(MODEL, i, gate=GATE, saes=SAES).relevance,
    "rollout": lambda i, r: fgg.attribute(MODEL, i, "rollout").relevance,
    "attnlrp": lambda i, r: fgg.attribute(MODEL, i, "attnlrp").relevance,
    "smoothgrad": lambda i, r: fgg.attribute(MODEL, i, "smoothgrad", samples=2).relevance,
    "rise": lambda i, r: fgg.attribute(MODEL, i, "rise", samples=20).relevance,
    "saco": lambda i, r: fgg.saco(MODEL, i, r),
    "faithfulness_correlation": lambda i, r: fgg.faithfulness_correlation(MODEL, i, r),
    "pixel_flipping": lambda i, r: fgg.pixel_flipping(MODEL, i, r, patches_per_step=3).curve,
    "srg": lambda i, r: fgg.srg(MODEL, i, r, patches_per_step=3),
    "insertion": lambda i, r: fgg.insertion(MODEL, i, r, patches_per_step=3),
    "deletion": lambda i, r: fgg.deletion(MODEL, i, r, patches_per_step=3),
    "localisation": lambda i, r: torch.stack([*fgg.localisation(r, MASKS[: len(r)]).values()]),
    "order_curves, most relevant first": lambda i, r: fgg.order_curves(MODEL, i, r).mif(3),
    "order_curves, least relevant first": lambda i, r: fgg.order_curves(MODEL, i, r, fill="blur").lif(3),
    "order_curves, restored": lambda i, r: fgg.order_curves(MODEL, i, r, fill="removal").insertion(3),
    "to_patches": lambda i, r: fgg.to_patches(i, 8),
    "to_pixels": lambda i, r: fgg.to_pixels(r, (4, 4), (32, 32), smooth=True),
}


@pytest.fixture(scope="module")
def expected():
    return {name: call(IMAGES, RELEVANCE) for name, call in CALLS.items()}


@pytest.mark.parametrize("form", FORMS)
def test_tensors_in_other_forms(form, expected):
    for name, call in CALLS.items():
        found = call(FORMS[form](IMAGES), FORMS[form](RELEVANCE))
        if name in ("to_patches", "to_pixels"):
            assert torch.allclose(found, expected[name], atol=1e-4), name
        else:
            assert torch.equal(found, expected[name]) and type(found) is torch.Tensor and not found.requires_grad, name


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_no_public_call(name, dtype, expected):
    with torch.autocast("cpu", dtype):
        found = CALLS[name](IMAGES, RELEVANCE)
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == dtype, "it is on again afterwards"
    assert torch.equal(found, expected[name]) and found.dtype == expected[name].dtype


def test_curves_are_computed_later_and_still_without_autocast(expected):
    with torch.autocast("cpu", torch.bfloat16):
        curves = fgg.order_curves(MODEL, IMAGES, RELEVANCE)
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(curves.mif(3), expected["order_curves, most relevant first"])


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_gradient_mode(around, expected):
    with around():
        for name in ("attribute", "gated", "smoothgrad", "saco", "pixel_flipping"):
            assert torch.equal(CALLS[name](IMAGES, RELEVANCE), expected[name]), name


def test_the_callers_default_dtype(expected):
    torch.set_default_dtype(torch.float64)
    try:
        for name in ("attribute", "gated", "saco", "faithfulness_correlation"):
            assert torch.equal(CALLS[name](IMAGES, RELEVANCE), expected[name]), name
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("to_patches", "to_pixels", "localisation")])
def test_no_images(name):
    found = CALLS[name](IMAGES[:0], RELEVANCE[:0])
    assert len(found) == 0


# ---- relevance

ROWS = RELEVANCE.double().numpy()
SAME_RELEVANCE = {
    "reversed, of an array": lambda: np.ascontiguousarray(ROWS[:, ::-1])[:, ::-1],
    "columns first": lambda: np.asfortranarray(ROWS),
    "the other byte order": lambda: ROWS.astype(">f8"),
    "objects": lambda: ROWS.astype(object),
    "long doubles": lambda: ROWS.astype(np.longdouble),
    "fractions": lambda: [[Fraction(value) for value in row] for row in ROWS.tolist()],
    "decimals": lambda: [[Decimal(value) for value in row] for row in ROWS.tolist()],
    "a list of tensors": lambda: list(torch.from_numpy(ROWS)),
    "a tuple of tensors": lambda: tuple(torch.from_numpy(ROWS)),
    "sparse": lambda: torch.from_numpy(ROWS).to_sparse(),
}


@pytest.mark.parametrize("form", SAME_RELEVANCE)
def test_relevance_that_means_the_same(form):
    assert torch.allclose(
        fgg.saco(MODEL, IMAGES, SAME_RELEVANCE[form]()), fgg.saco(MODEL, IMAGES, RELEVANCE), atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.uint8, torch.bool, torch.float16, torch.bfloat16])
def test_relevance_of_other_types(dtype):
    coarse = (RELEVANCE * 10).clamp(0, 100).to(dtype)
    assert torch.equal(fgg.saco(MODEL, IMAGES, coarse), fgg.saco(MODEL, IMAGES, coarse.float()))


# ---- what means the same as a whole number, a class, a name


@pytest.mark.parametrize("three", [3, 3.0, np.int8(3), np.float32(3), np.array(3), torch.tensor(3), Fraction(3), Fraction(6, 2)])  # fmt: skip
def test_whole_numbers(three, expected):
    curves = fgg.order_curves(MODEL, IMAGES, RELEVANCE)
    assert torch.equal(curves.mif(three), expected["order_curves, most relevant first"])
    assert torch.equal(fgg.saco(MODEL, IMAGES, RELEVANCE, bins=three), fgg.saco(MODEL, IMAGES, RELEVANCE, bins=3))
    assert torch.equal(fgg.to_patches(IMAGES[..., :30, :30], three), fgg.to_patches(IMAGES[..., :30, :30], 3))
    noisy = [fgg.saco(MODEL, IMAGES, RELEVANCE, fill="noise", seed=seed) for seed in (three, 3)]
    assert torch.equal(*noisy)
    assert fgg.Preprocess(three).size == (3, 3) and fgg.Preprocess((three, 4)).size == (3, 4)
    assert fgg.Preprocess({"shorter": three}, crop=three).pixels(BLACK).shape == (3, 3, 3)


ONES = [1, 1.0, np.int64(1), np.array(1), torch.tensor(1), torch.tensor(1, dtype=torch.uint8), Fraction(1)]


@pytest.mark.parametrize("target", [*ONES, [1] * 4, (1,) * 4, np.ones(4, int), torch.ones(4, dtype=torch.int8)])
def test_classes(target):
    for name in ("saco", "faithfulness_correlation", "srg"):
        found, same = (getattr(fgg, name)(MODEL, IMAGES, RELEVANCE, target=each) for each in (target, 1))
        assert torch.equal(found, same)
    assert torch.equal(
        fgg.attribute(MODEL, IMAGES, target=target).relevance, fgg.attribute(MODEL, IMAGES, target=1).relevance
    )


@pytest.mark.parametrize("form", [iter, tuple, np.array, dict.fromkeys])
def test_names(form):
    names = ["a", "b", "c", "d"]
    for call in (
        lambda ids: fgg.attribute(MODEL, IMAGES, "random", image_ids=ids).relevance,
        lambda ids: fgg.saco(MODEL, IMAGES, RELEVANCE, fill="noise", image_ids=ids),
        lambda ids: fgg.faithfulness_correlation(MODEL, IMAGES, RELEVANCE, image_ids=ids),
        lambda ids: torch.from_numpy(fgg.draw_subsets(ids, 16, 1, 5, 4, 0)),
    ):
        assert torch.equal(call(form(names)), call(names))
