"""The public functions, given what is not theirs, say what they take."""

from __future__ import annotations

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
