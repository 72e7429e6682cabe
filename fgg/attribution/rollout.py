"""Attention rollout (Abnar & Zuidema 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def relevance(attention: Sequence[Tensor], readout: Tensor) -> Tensor:
    """Rollout of the tokens: the read-out row of the product of (mean_h A + I) / 2, rows normalised.

    Args:
        attention: per block the head-averaged attention, (B, T, T), first block first.
        readout: (B, T), the row that the head reads.

    Returns:
        (B, T).
    """
    row = readout
    for mean in reversed(attention):
        mixed = (mean + torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)) / 2
        row = torch.einsum("bt,bts->bs", row, mixed / mixed.sum(-1, keepdim=True))
    return row
