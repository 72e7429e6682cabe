"""Attention rollout (Abnar & Zuidema 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.attribution.registry import method
from fgg.models.capture import Captured
from fgg.models.vit import at_patches
from fgg.models.vit import readout as readout_of


@method(
    title="Rollout",
    citation="Abnar & Zuidema 2020, Quantifying Attention Flow in Transformers",
    needs=("attention",),
    forward_passes=1,
    backward_passes=0,
    assumes="attention alone says how information flows; it is the same for every class",
)
def rollout(model: VisionTransformer, captured: Captured) -> Tensor:
    """Attention, averaged over the heads and multiplied through the blocks: (B, N)."""
    row = readout_of(model, captured.attention[0])
    return at_patches(model, relevance(captured.attention, row))


def relevance(attention: Sequence[Tensor], readout: Tensor) -> Tensor:
    """Rollout of the tokens: the read-out row of the product of (mean_h A + I) / 2, rows normalised.

    Args:
        attention: per block, the attention averaged over the heads, (B, T, T); the first block comes first.
        readout: (B, T), the row that the head reads.

    Returns:
        (B, T).
    """
    row = readout
    for mean in reversed(attention):
        mixed = (mean + torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)) / 2
        row = torch.einsum("bt,bts->bs", row, mixed / mixed.sum(-1, keepdim=True))
    return row
