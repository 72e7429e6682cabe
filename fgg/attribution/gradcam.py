"""Grad-CAM on tokens (Selvaraju et al. 2017)."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.attribution.registry import method
from fgg.models.capture import Captured
from fgg.models.vit import at_patches

LAYER = -2  # after the last block, patches no longer influence the class token


@method(
    title="Grad-CAM",
    citation="Selvaraju et al. 2017, Grad-CAM (on the tokens of the last block but one)",
    needs=("residuals", "residual_gradients"),
    layers=(-2,),
    forward_passes=1,
    backward_passes=1,
    assumes="a direction of the residual stream means the same at every patch",
)
def gradcam(model: VisionTransformer, captured: Captured) -> Tensor:
    """Tokens times their mean gradient, clamped at 0: (B, N)."""
    layer = len(model.blocks) + LAYER
    return relevance(at_patches(model, captured.residuals[layer]), at_patches(model, captured.gradients[layer]))


def relevance(residual: Tensor, gradient: Tensor) -> Tensor:
    """max(sum_d w_d r_d, 0) with w the mean gradient over the patches.

    Args:
        residual: (B, N, D), the residual stream at the patches after the last block but one.
        gradient: (B, N, D), d logit / d residual.

    Returns:
        (B, N).
    """
    weights = gradient.mean(1, keepdim=True)
    return (residual * weights).sum(-1).clamp(min=0)
