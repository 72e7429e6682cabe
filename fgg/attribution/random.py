"""Random relevance: the floor that every method must beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fgg.attribution.controls import random_relevance
from fgg.attribution.registry import method
from fgg.models.vit import patches_of


@method(
    title="Random",
    citation="uniform relevance, the floor every method must beat",
    forward_passes=1,
    backward_passes=0,
    role="floor",
)
def random(model: Any, images: Tensor, image_ids: Sequence[str], seed: int) -> Tensor:
    """Uniform relevance from 0 to 1, keyed by (seed, image_id): (B, N)."""
    return torch.from_numpy(random_relevance(image_ids, patches_of(model, images), seed)).to(images.device)
