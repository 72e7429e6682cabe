"""Measure at which layers residual x gradient carries information."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.degeneracy import CANCELLED, OK, ZERO
from fgg.models.capture import capture
from fgg.models.device import images_per_batch

# Rounding leaves about 1e-6 of a sum that cancels; D random terms leave about D ** -0.5, 0.01 for the largest ViT.
CANCELLED_BELOW = 1e-4
ZERO_BELOW = 1e-9


def diagnose(model: VisionTransformer, images: Tensor) -> list[dict[str, Any]]:
    """For each layer, how much of sum_d |x_d g_d| survives in |sum_d x_d g_d|, over the patches of the images.

    Args:
        images: normalised float32 (B, C, H, W); 16 are enough.

    Returns:
        One record per layer: ``layer``, ``survives`` (median over patches, 0 to 1), ``patch_share`` (the patches'
        share of sum |x g| over all tokens), and ``status``: ``ok``, ``cancelled`` or ``zero``.
    """
    layers = list(range(len(model.blocks)))
    size = images_per_batch(model)
    sums: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    shares: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for start in range(0, len(images), size):
        seen = capture(model, images[start : start + size], layers=layers)
        for layer in layers:
            product = (seen.residuals[layer] * seen.gradients[layer]).double()
            absolute = product.abs().sum(-1)
            patches = absolute[:, model.num_prefix_tokens :]
            shares[layer].append(patches.sum(1) / absolute.sum(1))
            survives = product.sum(-1)[:, model.num_prefix_tokens :].abs() / patches
            sums[layer].append(survives[patches > 0])
    records = []
    for layer in layers:
        patch_share = float(torch.cat(shares[layer]).nan_to_num(nan=0.0).median())  # no gradient at all: share 0
        left = torch.cat(sums[layer])
        remaining = float(left.median()) if len(left) else 0.0
        status = ZERO if patch_share < ZERO_BELOW else CANCELLED if remaining < CANCELLED_BELOW else OK
        records.append({"layer": layer, "survives": remaining, "patch_share": patch_share, "status": status})
    return records
