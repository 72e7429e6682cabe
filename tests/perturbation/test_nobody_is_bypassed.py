"""Hooks, replaced forwards and replaced modules act on the engine's passes as they act on the model's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fgg.models.capture import at_rest
from fgg.perturbation.engine import Perturber
from fgg.perturbation.fills import make_fill

PLACES = [
    "",
    "attn",
    "attn.qkv",
    "attn.k_norm",
    "attn.proj",
    "attn.proj_drop",
    "drop_path1",
    "ls2",
    "norm2",
    "mlp",
    "mlp.drop1",
]


class LowRank(nn.Module):
    """A linear layer with a low-rank change, whose weight is that of the layer alone."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.base = base
        self.change = torch.randn(base.out_features, base.in_features, generator=generator) * 0.1
        self.weight, self.bias = base.weight, base.bias

    def forward(self, x):
        return self.base(x) + x @ self.change.T


def replace(model: nn.Module, place: str, new) -> None:
    """Put another module in a place of every block, made from the one that is there."""
    for block in model.blocks:
        parent, _, name = place.partition(".")
        setattr(block.get_submodule(parent), name, new(block.get_submodule(place)))


def agrees(model: nn.Module, images: torch.Tensor, before: torch.Tensor) -> None:
    """Passes of the engine are the model's own, and not those of the model before the change."""
    with torch.no_grad():
        wanted = model(images)
        with at_rest(model):
            torch.testing.assert_close(model(images), wanted, atol=1e-5, rtol=1e-5)
    engine = Perturber(model, images)
    torch.testing.assert_close(engine.clean, wanted, atol=1e-5, rtol=1e-5)
    removal = engine.using(make_fill("removal", images, (8, 8)))
    none = torch.zeros(len(images), 1, engine.patches, dtype=torch.bool)
    torch.testing.assert_close(removal.logits(none)[:, 0], wanted, atol=1e-5, rtol=1e-5)
    assert (wanted - before).abs().max() > 1e-3, "the change is one that can be seen"


@pytest.fixture
def plain(make_model, make_images):
    model = make_model(depth=3)
    images = make_images(model)
    with torch.no_grad():
        return model, images, model(images)


@pytest.mark.parametrize("block", [0, 1, 2])
@pytest.mark.parametrize("place", PLACES)
def test_hooks(plain, block, place):
    model, images, before = plain
    module = model.blocks[block].get_submodule(place)
    module.register_forward_hook(lambda _module, _inputs, output: output + output.roll(1, -1))
    agrees(model, images, before)


@pytest.mark.parametrize("block", [0, 1, 2])
@pytest.mark.parametrize("place", ["", "attn", "attn.qkv", "mlp.fc1"])
def test_forwards_that_somebody_has_set(plain, block, place):
    model, images, before = plain
    module = model.blocks[block].get_submodule(place)
    own = type(module).forward
    module.forward = lambda *given, **named: own(module, *given, **named).roll(1, -1)
    agrees(model, images, before)


@pytest.mark.parametrize("place", ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"])
def test_wrapped_layers(plain, place):
    model, images, before = plain
    replace(model, place, LowRank)
    agrees(model, images, before)


@pytest.mark.parametrize("place", ["attn.proj_drop", "mlp.drop1", "mlp.drop2", "attn.k_norm"])
def test_other_modules_in_places_that_do_nothing(plain, place):
    model, images, before = plain
    replace(model, place, lambda _before: nn.Tanh())
    agrees(model, images, before)


def test_hooks_of_all_modules(plain):
    model, images, before = plain
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, _inputs, output: output * 1.5 if isinstance(module, nn.GELU) else None
    )
    try:
        agrees(model, images, before)
    finally:
        handle.remove()


def test_a_hook_of_the_patch_embedding(plain):
    model, images, before = plain
    model.patch_embed.register_forward_hook(lambda _module, _inputs, output: output * 1.5)
    agrees(model, images, before)
