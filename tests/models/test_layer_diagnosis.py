"""Which layers carry information: measured again patch by patch, with autograd alone."""

import numpy as np
import pytest
import torch

from fgg.models.layer_diagnosis import diagnose
from fgg.models.vit import load_model

KWARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 2, "mlp_ratio": 2}


def make(**changes):
    torch.manual_seed(0)
    model = load_model("vit_tiny_patch16_224", {**KWARGS, **changes}, num_classes=3)
    for parameter in model.parameters():  # fresh heads are near zero
        torch.nn.init.normal_(parameter, std=0.2) if parameter.ndim > 1 else None
    return model


@pytest.fixture(scope="module")
def images():
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_the_diagnosis_measured_again(images, pool):
    model = make(global_pool=pool)
    found = diagnose(model, images)
    assert [entry["layer"] for entry in found] == [0, 1, 2, 3]
    for layer, entry in enumerate(found):
        survives, shares = [], []
        for image in images:
            tokens = model._pos_embed(model.patch_embed(image[None]))
            for block in model.blocks[: layer + 1]:
                tokens = block(tokens)
            tokens = tokens.detach().requires_grad_()
            after = tokens
            for block in model.blocks[layer + 1 :]:
                after = block(after)
            logits = model.forward_head(model.norm(after))[0]
            logits[logits.argmax()].backward()
            products = (tokens[0] * tokens.grad[0]).detach().double().numpy()
            absolute = np.abs(products).sum(1)
            shares.append(absolute[1:].sum() / absolute.sum())
            survives += [abs(p.sum()) / a for p, a in zip(products[1:], absolute[1:], strict=True) if a > 0]
        assert entry["patch_share"] == pytest.approx(sorted(shares)[2], rel=1e-3, abs=1e-9)
        wanted = sorted(survives)[(len(survives) - 1) // 2] if survives else 0.0
        assert entry["survives"] == pytest.approx(wanted, rel=1e-2, abs=1e-5)


def test_where_the_class_token_is_read_the_last_two_layers_say_nothing(images):
    assert [entry["status"] for entry in diagnose(make(), images)] == ["ok", "ok", "cancelled", "zero"]
    assert [entry["status"] for entry in diagnose(make(depth=2), images)] == ["cancelled", "zero"]
    assert [entry["status"] for entry in diagnose(make(depth=1), images)] == ["zero"]


def test_where_the_patches_are_read_all_layers_count(images):
    assert {entry["status"] for entry in diagnose(make(global_pool="avg"), images)} == {"ok"}


def test_the_model_leaves_as_it_came(images):
    model = make()
    diagnose(model, images)
    assert not [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]
    assert all(p.grad is None and p.requires_grad for p in model.parameters()) and not model.training
