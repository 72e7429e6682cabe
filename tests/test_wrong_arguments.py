"""The public functions, given what is not theirs, say what they take."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from timm import create_model

import fgg

GATE = fgg.Gate((1,), "no_sae")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": lambda images: images.double()}, r"images are torch.float64, but the model is torch.float32; convert"),
        ({"images": lambda images: images.half()}, r"images are torch.float16"),
        ({"images": lambda images: images.numpy()}, r"not a ndarray; see torch.from_numpy"),
        ({"images": lambda images: images[0]}, r"must be a float tensor \(B, C, H, W\)"),
        ({"model": create_model("resnet18", num_classes=2)}, r"the model is a ResNet; fgg explains timm's VisionTrans"),
        ({"gate": {"layers": [1]}}, r"gate is a dict; give fgg.Gate"),
        ({"gate": fgg.Gate((1,)), "saes": {1: "data/saes/layer_1"}}, r"SAE for layer 1 is a str; load it with fgg.load_sae"),
    ],
)  # fmt: skip
def test_attribute(plain, pictures, change, message):
    arguments = {"model": plain, "images": pictures} | change
    if callable(change.get("images")):
        arguments["images"] = change["images"](pictures)
    with pytest.raises(fgg.FggError, match=message):
        fgg.attribute(**arguments)


@pytest.mark.parametrize("metric", [fgg.saco, fgg.pixel_flipping, fgg.faithfulness_correlation])
def test_metrics(plain, pictures, metric):
    out = fgg.attribute(plain, pictures, gate=GATE)
    with pytest.raises(fgg.FggError, match=r"such as attribute\(…\).relevance, not a Attribution"):
        metric(plain, pictures, out)
    with pytest.raises(fgg.FggError, match=r"images are torch\.float64"):
        metric(plain, pictures.double(), out.relevance)


def test_drawn_subsets_may_be_arrays(plain, pictures):
    relevance = fgg.attribute(plain, pictures).relevance
    drawn = fgg.draw_subsets([str(i) for i in range(len(pictures))], relevance.shape[1], 1, 12, 4, 0)[:, 0]
    assert isinstance(drawn, np.ndarray)
    found = [
        fgg.faithfulness_correlation(plain, pictures, relevance, subsets=own)
        for own in (drawn, torch.from_numpy(drawn))
    ]
    assert torch.equal(*found) and found[0].isfinite().all()
    relevance[0, 3] = torch.nan
    assert fgg.saco(plain, pictures, relevance).isnan().tolist() == [True, False, False, False]


# ---- gates


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clamp_max": "10"}, r"gate\.clamp_max: '10' must be a number"),
        ({"clamp_max": None}, r"gate\.clamp_max: None must be a number"),
        ({"clamp_max": True}, r"gate\.clamp_max: True must be a number"),
        ({"clamp_max": 1e300}, r"gate\.clamp_max: 1e\+300 must be above 1, and at most 1e\+06"),
        ({"clamp_max": 1.0}, r"must be above 1, and at most"),
        ({"clamp_max": np.nan}, r"must be above 1, and at most"),
        ({"clamp_max": 1e6, "layers": range(12)}, r"at 12 layers leaves the range of float32; it must be at most 1000"),
        ({"clamp_max": torch.tensor([2.0, 3.0])}, r"must be a number"),
        ({"alpha": 1e300}, r"gate\.alpha: 1e\+300 must be above 0, and from 1e-06 to 1e\+06"),
        ({"alpha": 0}, r"gate\.alpha: 0 must be above 0"),
        ({"alpha": "1"}, r"gate\.alpha: '1' must be a number"),
        ({"alpha": [1]}, r"gate\.alpha: \[1\] must be a number"),
        ({"layers": 1.0}, r"gate\.layers: 1\.0"),
        ({"layers": None}, r"gate\.layers: None"),
        ({"layers": "12"}, r"gate\.layers: '12'"),
        ({"layers": ()}, r"must name at least one layer"),
        ({"construction": ["combined"]}, r"gate\.construction: \['combined'\] is unknown"),
        ({"construction": None}, r"gate\.construction: None is unknown"),
        ({"shuffle_decoder": "no"}, r"gate\.shuffle_decoder: 'no' must be True or False"),
        ({"shuffle_decoder": 1}, r"gate\.shuffle_decoder: 1 must be"),
        ({"shuffle_seed": 1.5}, r"gate\.shuffle_seed: 1\.5 must be a whole number"),
        ({"shuffle_seed": -1}, r"gate\.shuffle_seed: -1"),
        ({"shuffle_seed": 2**64}, r"gate\.shuffle_seed: .* must be below 2\^63"),
    ],
    ids=str,
)
def test_a_gate(change, message):
    with pytest.raises(fgg.FggError, match=message):
        fgg.Gate(**{"layers": (1,)} | change)


def test_other_kinds_of_number_that_mean_the_same():
    assert fgg.Gate(np.arange(2), clamp_max=np.float32(10), alpha=np.int64(1)) == fgg.Gate((0, 1))
    assert fgg.Gate([1], shuffle_seed=12345.0) == fgg.Gate(1)


@pytest.mark.parametrize("layers", [(0,), (0, 1, 2, 3)])
@pytest.mark.parametrize("alpha", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_all_allowed_gates_give_finite_maps(plain, pictures, layers, alpha, scale):
    scores = scale * torch.tensor([[0.0, 0.0, 1.0, -2.0, 3.0, 0.0, 0.0, 0.0, 5.0]])
    assert fgg.attribution.gate.gating.gate(scores, 1e6, alpha).isfinite().all()
    out = fgg.attribute(plain, pictures, gate=fgg.Gate(layers, "no_sae", clamp_max=1e6, alpha=alpha))
    assert out.relevance.isfinite().all()


# ---- numbers


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda model, images, r, value: fgg.saco(model, images, r, bins=value), "bins"),
        (lambda model, images, r, value: fgg.pixel_flipping(model, images, r, patches_per_step=value).auc, "patches_per_step"),
        (lambda model, images, r, value: fgg.srg(model, images, r, patches_per_step=value), "patches_per_step"),
        (lambda model, images, r, value: fgg.insertion(model, images, r, patches_per_step=value), "patches_per_step"),
        (lambda model, images, r, value: fgg.deletion(model, images, r, patches_per_step=value), "patches_per_step"),
        (lambda model, images, r, value: fgg.attribute(model, images, batch_size=value).relevance, "batch_size"),
    ],
)  # fmt: skip
def test_whole_numbers(plain, pictures, call, name):
    relevance = fgg.attribute(plain, pictures).relevance
    expected = call(plain, pictures, relevance, 4)
    for same in (4.0, np.int32(4), np.float64(4), torch.tensor(4)):
        assert torch.equal(call(plain, pictures, relevance, same), expected)
    for wrong in (1.5, "4", True, [4], np.nan, np.inf, 0, -4, 1j, torch.tensor([4, 4])):
        with pytest.raises(fgg.FggError, match=rf"{name}: .* must be a whole number|-?\d bins for"):
            call(plain, pictures, relevance, wrong)


@pytest.mark.parametrize(
    "change",
    [{"runs": 2.5}, {"trials": "3"}, {"subset_size": 1.5}, {"subset_size": 16}, {"patches": None}, {"runs": 0}],
)
def test_drawing_subsets(change):
    numbers = {"patches": 16, "trials": 1, "runs": 5, "subset_size": 4, "seed": 0}
    assert np.array_equal(fgg.draw_subsets(["a"], **numbers), fgg.draw_subsets(["a"], **numbers | {"runs": 5.0}))
    with pytest.raises(fgg.FggError, match="must be"):
        fgg.draw_subsets(["a"], **numbers | change)


@pytest.mark.parametrize("metric", [fgg.saco, fgg.pixel_flipping, fgg.faithfulness_correlation, fgg.srg])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r * 1j, r"relevance is torch.complex64, and complex numbers have no order"),
        (lambda r: [[1, 2], [3]], r"relevance must hold a number for each patch"),
        (lambda r: [["a"] * 16] * 4, r"relevance must hold a number for each patch"),
        (lambda r: r[:, :5], r"relevance is \(4, 5\), expected \(4, 16\)"),
        (lambda r: None, r"not a NoneType"),
    ],
)
def test_relevance(plain, pictures, metric, change, message):
    with pytest.raises(fgg.FggError, match=message):
        metric(plain, pictures, change(fgg.attribute(plain, pictures).relevance))


@pytest.mark.parametrize("form", [torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.double, torch.Tensor.to_sparse])
def test_relevance_in_other_forms(plain, pictures, form):
    relevance = fgg.attribute(plain, pictures).relevance
    assert torch.allclose(fgg.saco(plain, pictures, form(relevance)), fgg.saco(plain, pictures, relevance))


@pytest.mark.parametrize(
    ("subsets", "message"),
    [
        ([[[0, 1, 1]] * 5] * 4, "name a patch twice"),
        ([[[0, 1, 2]]] * 4, r"hold 1 runs; a correlation needs at least 3"),
        ([[[0, 1, 2]] * 2] * 4, r"hold 2 runs"),
        ([[list(range(16))] * 5] * 4, r"name 16 of 16 patches; name at least one, and not all"),
        ([[[]] * 5] * 4, r"subsets (name 0 of 16|must be int64)"),
        ([[[0, 1, 16]] * 5] * 4, r"patches from 0 to 15"),
        ([[[0, 1.5]] * 5] * 4, r"must be int64"),
        ([[0, 1]] * 4, r"must be int64"),
        ("all", r"must be int64"),
    ],
    ids=str,
)
def test_subsets(plain, pictures, subsets, message):
    with pytest.raises(fgg.FggError, match=message):
        fgg.faithfulness_correlation(plain, pictures, torch.randn(4, 16), subsets=subsets)


def test_subsets_are_drawn_or_lists(plain, pictures):
    relevance = fgg.attribute(plain, pictures).relevance
    drawn = fgg.draw_subsets("0123", 16, 1, 20, 5, 7)[:, 0]
    found = [fgg.faithfulness_correlation(plain, pictures, relevance, seed=seed) for seed in (7, 7, 8)]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert torch.equal(found[0], fgg.faithfulness_correlation(plain, pictures, relevance, subsets=drawn.tolist()))


# ---- models


@pytest.mark.parametrize("call", ["attribute", "saco", "pixel_flipping", "faithfulness_correlation", "srg"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 1}, "the model has one class, whose probability is always 1"),
        ({"num_classes": 0}, r"the model has no head \(num_classes=0\)"),
        ({"global_pool": ""}, r"the model does not pool its tokens \(global_pool=''\)"),
    ],
)
def test_heads(pictures, make_model, call, changes, message):
    model = make_model(**changes)
    with pytest.raises(fgg.FggError, match=message):
        getattr(fgg, call)(model, pictures, **({} if call == "attribute" else {"relevance": torch.randn(4, 16)}))


@pytest.mark.parametrize("call", ["attribute", "saco", "faithfulness_correlation"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(pictures, make_model, call, dtype):
    with pytest.raises(fgg.FggError, match=rf"the model is {dtype}, .*use model\.float\(\) and images\.float\(\)"):
        getattr(fgg, call)(
            make_model().to(dtype),
            pictures.to(dtype),
            **({} if call == "attribute" else {"relevance": torch.randn(4, 16)}),
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(plain, pictures, saes, dtype):
    def everything():
        out = fgg.attribute(plain, pictures, gate=fgg.Gate((0, 1)), saes=saes)
        own = [fgg.attribute(plain, pictures, method).relevance for method in ("rollout", "attnlrp", "smoothgrad")]
        own += [metric(plain, pictures, out.relevance) for metric in (fgg.saco, fgg.srg, fgg.insertion, fgg.deletion)]
        own += [fgg.faithfulness_correlation(plain, pictures, out.relevance)]
        return [out.relevance, out.logits, *own, fgg.pixel_flipping(plain, pictures, out.relevance).curve]

    expected = everything()
    with torch.autocast("cpu", dtype):
        found = everything()
        assert torch.is_autocast_enabled("cpu")
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == dtype
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("registers", [0, 2])
def test_the_tokens_that_the_head_pools(pictures, make_model, registers):
    """With pool_include_prefix, the class token and the registers are pooled, too: the mean of all rows of TransMM."""
    model = make_model(global_pool="avg", pool_include_prefix=True, reg_tokens=registers)
    out = fgg.attribute(model, pictures)
    from fgg.models.capture import capture

    cams = capture(model, pictures, cams=True).cams
    joint = torch.eye(cams[0].shape[-1]).expand_as(cams[0])
    for cam in cams:
        joint = joint + cam @ joint
    assert torch.allclose(out.relevance, joint.mean(1)[:, 1 + registers :], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("pool", ["max", "avgmax"])
def test_a_head_of_maxima(pictures, make_model, pool):
    model = make_model(global_pool=pool)
    with pytest.raises(fgg.FggError, match="the head takes the maximum over the patches"):
        fgg.attribute(model, pictures)
    assert fgg.saco(model, pictures, torch.randn(4, 16)).isfinite().all()


# ---- undefined scores, with their reason


def uniform(values):
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, 32, 32).clone()


@pytest.mark.parametrize("fill", ["mean", "blur", "noise"])
@pytest.mark.parametrize("metric", [fgg.saco, fgg.faithfulness_correlation])
def test_images_of_one_colour(plain, pictures, metric, fill):
    images = torch.cat([uniform([0.3, -1.7, 0.0]), pictures[:2]])
    with pytest.warns(UserWarning, match=r"NaN for 3 of 5 images: 3 because the fill leaves the image as it is"):
        found = metric(plain, images, torch.randn(5, 16, generator=torch.Generator().manual_seed(1)), fill=fill)
    assert found.isnan().tolist() == [True, True, True, False, False]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metric(plain, images, torch.randn(5, 16), fill=5.0).isfinite().all(), "another fill changes them"


@pytest.mark.parametrize("metric", [fgg.saco, fgg.faithfulness_correlation])
@pytest.mark.parametrize(
    ("value", "reason"),
    [(torch.nan, "a relevance is not finite"), (torch.inf, "a relevance is not finite"), (0.5, "the same relevance")],
)
def test_reasons_of_nan(plain, pictures, metric, value, reason):
    relevance = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    relevance[2] = value
    with pytest.warns(UserWarning, match=rf"NaN for 1 of 4 images: 1 because .*{reason}"):
        assert metric(plain, pictures, relevance).isnan().tolist() == [False, False, True, False]
