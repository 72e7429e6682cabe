"""Grad-CAM where the library pytorch-grad-cam documents it for Vision Transformers: the last block's first norm."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.attribution.gradcam import relevance
from fgg.attribution.gradients import grown_from
from fgg.attribution.registry import method
from fgg.errors import FggError
from fgg.models.architectures import PRE_NORM
from fgg.models.vit import at_patches


@method(
    title="Grad-CAM (norm1)",
    citation="Selvaraju et al. 2017, Grad-CAM (at blocks[-1].norm1, as Gildenblat's pytorch-grad-cam documents it)",
    forward_passes=2,
    backward_passes=1,
    assumes="a direction of the last block's input means the same at every patch",
)
def gradcam_norm1(model: VisionTransformer, images: Tensor, target: Tensor) -> Tensor:
    """The last block's normalised tokens times their mean gradient, clamped at 0: (B, N).

    Raises:
        FggError: the last block has no ``norm1``, or has it behind its attention.
    """
    last = model.blocks[-1]
    if not isinstance(last, PRE_NORM):
        raise FggError(
            f"gradcam_norm1 needs a block with norm1 before its attention, not a {type(last).__name__}; use gradcam"
        )
    tokens, gradient = grown_from(model, last.norm1, images, target)
    return relevance(at_patches(model, tokens), at_patches(model, gradient))
