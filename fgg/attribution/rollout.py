"""Attention rollout (Abnar & Zuidema 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
def rollout(model: VisionTransformer, captured: Captured, gates: Mapping[int, Tensor]) -> Tensor:
    """Attention, averaged over the heads and multiplied through the blocks: (B, N)."""
    row = readout_of(model, captured.attention[0])
    return at_patches(model, relevance(captured.attention, row, gates))


def relevance(attention: Sequence[Tensor], readout: Tensor, gates: Mapping[int, Tensor] | None = None) -> Tensor:
    """Rollout of the tokens: the read-out row of the product of (mean_h A + I) / 2, rows normalised.

    Args:
        attention: per block, the attention averaged over the heads, (B, T, T); the first block comes first.
        readout: (B, T), the row that the head reads.
        gates: layer -> (B, N), multiply the patch columns of that block's attention, without the identity.

    Returns:
        (B, T).
    """
    row, identity = readout, torch.eye(readout.shape[-1], dtype=readout.dtype, device=readout.device)
    for layer in reversed(range(len(attention))):
        mixed = attention[layer] + identity
        if gates and layer in gates:
            patches = gates[layer].shape[-1]
            mixed = attention[layer].clone()
            mixed[:, :, -patches:] *= gates[layer][:, None]
            mixed = mixed + identity
        mixed = mixed / 2
        row = torch.einsum("bt,bts->bs", row, mixed / mixed.sum(-1, keepdim=True))
    return row
