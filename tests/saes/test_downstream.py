"""The model with an SAE's reconstruction in place of the residual stream: cases whose answer is known, and a slow pass."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy

from fgg.data.load import load_split
from fgg.models import model_files
from fgg.saes.downstream import downstream
from fgg.saes.sae import load_sae

LAYER = 1
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def given(data, model_folder):
    """Model, preprocessing, validation split, and the mean residual after the layer."""
    model, preprocess, _ = model_files.load(model_folder, CPU)
    split = load_split(data / "val.parquet")
    rows = []
    handle = model.blocks[LAYER].register_forward_hook(lambda block, _, output: rows.append(output[:, 1:].detach()))
    model(split.tensors(preprocess))
    handle.remove()
    return model, preprocess, split, torch.cat(rows).flatten(0, 1).mean(0)


def sae_of(decode):
    return SimpleNamespace(encode=lambda x: x, decode=decode)


def measured(given, sae):
    model, preprocess, split, mean = given
    return downstream(model, preprocess, sae, LAYER, split, mean)


def test_a_perfect_reconstruction_changes_nothing(given):
    found = measured(given, sae_of(lambda x: x))
    assert (found["same_prediction"], found["loss_recovered"]) == (1.0, pytest.approx(1.0))
    assert found["kl"] == pytest.approx(0, abs=1e-9)
    assert found["loss"] == pytest.approx(found["loss_replaced"])


def test_the_mean_recovers_nothing(given):
    mean = given[3]
    found = measured(given, sae_of(lambda x: mean.expand_as(x)))
    assert found["loss_recovered"] == pytest.approx(0, abs=1e-6)
    assert found["kl"] > 0


def test_against_a_pass_block_by_block(given, sae_folder):
    """The model's blocks are run one by one, image by image, with the patches replaced between two of them."""
    model, preprocess, split, _ = given
    sae, losses, same = load_sae(sae_folder), [], 0
    for image, label in zip(split.tensors(preprocess), split.labels, strict=True):
        with torch.no_grad():
            x = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))
            for number, block in enumerate(model.blocks):
                x = block(x)
                if number == LAYER:
                    x = torch.cat([x[:, :1], sae.decode(sae.encode(x[:, 1:]))], dim=1)
            logits = model.forward_head(model.norm(x))
            same += int(logits.argmax() == model(image[None]).argmax())
        losses.append(float(cross_entropy(logits.double(), torch.tensor([label]))))
    found = measured(given, sae)
    assert found["loss_replaced"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert found["same_prediction"] == pytest.approx(same / len(split))


def test_the_model_leaves_as_it_came(given):
    model, preprocess, split, _ = given
    images = split.tensors(preprocess)
    before = model(images)
    measured(given, sae_of(lambda x: 0 * x))
    assert torch.equal(model(images), before)
    assert not model.blocks[LAYER]._forward_hooks


def test_the_metrics_of_an_sae_hold_it(sae_folder):
    found = json.loads((sae_folder / "metrics.json").read_text())
    assert 0 <= found["same_prediction"] <= 1 and found["kl"] >= 0
    assert found["downstream_images"] == 12
    assert found["loss_recovered"] is None or math.isfinite(found["loss_recovered"])
