"""Grad-CAM of the last block's attention, as Chefer et al. (2021) compare with it."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.attribution.registry import method
from fgg.models.capture import Captured
from fgg.models.vit import at_patches, readout


@method(
    title="Attention CAM",
    citation="Chefer et al. 2021, Transformer Interpretability Beyond Attention Visualization (their Grad-CAM of attention)",
    needs=("last_attention",),
    forward_passes=1,
    backward_passes=1,
    assumes="a head that the class depends on looks at what the class depends on",
)
def attention_cam(model: VisionTransformer, captured: Captured) -> Tensor:
    """The heads' attention to the patches, weighted by each head's mean gradient, clamped at 0: (B, N)."""
    attention, gradient = captured.last_attention, captured.last_attention_gradient
    row = readout(model, attention[:, 0])[:, None, None]
    attended, slopes = ((row @ each)[:, :, 0] for each in (attention, gradient))
    return relevance(*(at_patches(model, each.transpose(1, 2)).transpose(1, 2) for each in (attended, slopes)))


def relevance(attention: Tensor, gradient: Tensor) -> Tensor:
    """max(mean_h w_h a_h, 0) with w_h the mean gradient of head h over the patches.

    Args:
        attention: (B, H, N), what the head's token attends to.
        gradient: (B, H, N), d logit / d attention.

    Returns:
        (B, N).
    """
    return (attention * gradient.mean(-1, keepdim=True)).mean(1).clamp(min=0)
