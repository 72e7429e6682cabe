"""How well an SAE reconstructs residuals, and what a log warns of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

MOST_CODES = 2**26  # in memory at once, while an SAE is measured


@torch.no_grad()
def measure(sae: Any, rows: Tensor, chunk: int | None = None) -> dict[str, Any]:
    """Explained variance, mean L0 and share of dead features on rows (n, D).

    An SAE with a large expansion has 50,000 codes per row, so the default chunk depends on their number.
    """
    chunk = chunk or max(1, min(8192, MOST_CODES // sae.W_dec.shape[0]))
    mean = rows.double().mean(0)
    residual = total = 0.0
    active = torch.zeros(sae.W_dec.shape[0], dtype=torch.float64, device=rows.device)
    for part in rows.split(chunk):
        codes = sae.encode(part)
        residual += float((part - sae.decode(codes)).double().square().sum())
        total += float((part.double() - mean).square().sum())
        active += (codes > 0).double().sum(0)
    return {
        "explained_variance": 1 - residual / total,
        "l0": float(active.sum()) / len(rows),
        "dead_share": float((active == 0).double().mean()),
        "features": len(active),
        "width": rows.shape[1],
        "tokens": len(rows),
    }


def finite(measured: Mapping[str, float]) -> dict[str, float | None]:
    """Measurements as JSON holds them: None for what is undefined."""
    return {name: value if math.isfinite(value) else None for name, value in measured.items()}


def faults(measured: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with an SAE whose measurements are worse than those of no SAE at all."""
    explained = measured["explained_variance"]
    if not explained >= 0:
        yield (
            f"explained variance {explained:.2f} is below 0: this SAE does not reconstruct these residuals; check the "
            "layer, the model, the preprocessing and the normalisation that it was trained with"
        )
