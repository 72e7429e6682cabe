"""TransMM (Chefer et al. 2021, Generic Attention-model Explainability for Interpreting Bi-Modal Transformers)."""

from __future__ import annotations

from collections.abc import Mapping

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg import gating
from fgg.attribution.registry import method
from fgg.models.capture import Captured
from fgg.models.vit import at_patches, readout


@method(
    title="TransMM",
    citation="Chefer et al. 2021, Generic Attention-model Explainability",
    needs=("attention_gradients",),
    forward_passes=1,
    backward_passes=1,
    assumes="attention times its positive gradient says how much a token takes from another for the class",
)
def transmm(model: VisionTransformer, captured: Captured, gates: Mapping[int, Tensor]) -> Tensor:
    """Attention times its positive gradient, accumulated through the blocks: (B, N). See `fgg.gating.relevance`."""
    row = readout(model, captured.cams[0])
    return at_patches(model, gating.relevance(captured.cams, row, gates))
