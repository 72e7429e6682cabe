"""What a call of ``attribute`` returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Attribution:
    """Relevance of the patches, and the model's prediction. B images, N patches, K classes.

    Attributes:
        relevance: float32 (B, N), patches row by row.
        predicted: int64 (B,).
        confidence: float32 (B,), probability of the predicted class.
        logits: float32 (B, K).
        target: int64 (B,), the class explained.
        gates: layer -> (B, N), the gates as applied.
        scores: layer -> (B, N), the gate scores s.
        columns: name -> (B,), what the method says about each map, such as ``completeness_residual``.
    """

    relevance: Tensor
    predicted: Tensor
    confidence: Tensor
    logits: Tensor
    target: Tensor
    gates: dict[int, Tensor] = field(default_factory=dict)
    scores: dict[int, Tensor] = field(default_factory=dict)
    columns: dict[str, Tensor] = field(default_factory=dict)


def join(parts: Sequence[Attribution]) -> Attribution:
    """Concatenate attributions of the same kind along the images."""
    if len(parts) == 1:
        return parts[0]
    tensors: dict[str, Any] = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("relevance", "predicted", "confidence", "logits", "target")
    }
    for name in ("gates", "scores", "columns"):
        tensors[name] = {
            key: torch.cat([getattr(part, name)[key] for part in parts]) for key in getattr(parts[0], name)
        }
    return Attribution(**tensors)
