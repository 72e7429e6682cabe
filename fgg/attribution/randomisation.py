"""Sanity checks (Adebayo et al. 2018, Sanity Checks for Saliency Maps): models and SAEs that have learnt nothing."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer

from fgg.models import model_files
from fgg.randomness import generator


def randomized_model(record: Mapping[str, Any], seed: int) -> VisionTransformer:
    """The architecture of a model.json with fresh weights, keyed by the seed, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(seed, "randomized_model").integers(2**62)))
        return model_files.blank(record)


def randomized_sae(sae: Any, seed: int, layer: int) -> Any:
    """A copy of an SAE whose weight matrices have their entries shuffled, keyed by (seed, layer).

    The distribution of the weights stays, and so do the biases; what the features stand for is lost.
    """
    shuffled = copy.deepcopy(sae)
    for name in ("W_enc", "W_dec"):
        weight = getattr(shuffled, name)
        order = torch.from_numpy(generator(seed, "randomized_sae", layer, name).permutation(weight.numel()))
        weight.data = weight.data.flatten()[order.to(weight.device)].view(weight.shape)
    return shuffled
