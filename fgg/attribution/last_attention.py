"""The attention of the last block (Dosovitskiy et al. 2021; Caron et al. 2021)."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.attribution.registry import method
from fgg.models.capture import Captured
from fgg.models.vit import at_patches, readout


@method(
    title="Last attention",
    citation="Caron et al. 2021, Emerging Properties in Self-Supervised Vision Transformers (mean over the heads)",
    needs=("attention",),
    forward_passes=1,
    backward_passes=0,
    assumes="tokens still stand for their own patches in the last block; it is the same for every class",
)
def last_attention(model: VisionTransformer, captured: Captured) -> Tensor:
    """The attention that the head's token pays in the last block, averaged over the heads: (B, N)."""
    last = captured.attention[-1]
    row = readout(model, last)
    return at_patches(model, (row[:, None] @ last)[:, 0])
