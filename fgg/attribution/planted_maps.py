"""Maps of known content for planted images: they point at the cue, or at the decoy. They judge the metrics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fgg.attribution.registry import method
from fgg.randomness import generator

BACKGROUND = 0.1  # largest relevance elsewhere, so that the order of the other patches is random but not tied


@method(
    title="Points at the cue",
    citation="the known place of the planted cue",
    forward_passes=1,
    backward_passes=0,
    role="reference",
)
def cue_map(masks: Tensor, image_ids: Sequence[str], seed: int) -> Tensor:
    """The share of each patch that the cue covers, plus a small random background: (B, N); NaN without a cue."""
    return _over(masks, image_ids, seed)


@method(
    title="Points at the decoy",
    citation="the known place of the decoy, which says nothing about the class",
    forward_passes=1,
    backward_passes=0,
    role="reference",
)
def decoy_map(decoys: Tensor, image_ids: Sequence[str], seed: int) -> Tensor:
    """The share of each patch that the decoy covers, plus the same background as `cue_map`: (B, N)."""
    return _over(decoys, image_ids, seed)


def _over(coverage: Tensor, image_ids: Sequence[str], seed: int) -> Tensor:
    rows = [generator(seed, "planted_maps", name).random(coverage.shape[1], dtype=np.float32) for name in image_ids]
    return coverage + BACKGROUND * torch.from_numpy(np.stack(rows)).to(coverage)
