"""Randomised models and SAEs."""

from __future__ import annotations

import torch

from fgg.attribution.controls import randomized_model, randomized_sae
from fgg.saes.sae import build_sae

RECORD = {
    "architecture": "vit_tiny_patch16_224",
    "kwargs": {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2},
    "classes": ["a", "b", "c"],
}


def test_a_randomised_model_is_keyed_by_the_seed_alone():
    torch.manual_seed(1)
    first = randomized_model(RECORD, 0).state_dict()
    torch.manual_seed(2)
    again, other = randomized_model(RECORD, 0).state_dict(), randomized_model(RECORD, 1).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])
    assert first["head.weight"].shape == (3, 24)


def test_a_randomised_sae_keeps_its_values_and_loses_their_places():
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "W_enc": torch.randn(8, 32, generator=generator),
        "W_dec": torch.randn(32, 8, generator=generator),
        "b_enc": torch.randn(32, generator=generator),
        "b_dec": torch.randn(8, generator=generator),
    }
    sae = build_sae(tensors)
    shuffled = randomized_sae(sae, seed=0, layer=1)
    for name in ("W_enc", "W_dec"):
        before, after = getattr(sae, name), getattr(shuffled, name)
        assert torch.equal(before, tensors[name])
        assert not torch.equal(before, after)
        assert torch.equal(before.flatten().sort().values, after.flatten().sort().values)
    assert torch.equal(sae.b_enc, shuffled.b_enc)
    assert torch.equal(shuffled.W_enc, randomized_sae(sae, seed=0, layer=1).W_enc)
    assert not torch.equal(shuffled.W_enc, randomized_sae(sae, seed=0, layer=2).W_enc)
