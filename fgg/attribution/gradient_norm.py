"""The length of the gradient (Simonyan et al. 2014)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.attribution.gradients import at_places, gradient
from fgg.attribution.registry import method


@method(
    title="Gradient norm",
    citation="Simonyan et al. 2014, Deep Inside Convolutional Networks (Euclidean norm of the gradient per patch)",
    forward_passes=2,
    backward_passes=1,
    assumes="what the logit reacts to is what it rests on; it has no sign",
)
def gradient_norm(
    model: VisionTransformer,
    images: Tensor,
    target: Tensor,
    gates: Mapping[int, Tensor],
    layers: Sequence[int] | None = None,
) -> Tensor:
    """The Euclidean norm of the gradient of the target's logit over each patch: (B, N).

    Args:
        layers: blocks after which it is measured at the tokens, and added; None measures it at the pixels.
    """
    return at_places(
        model, images, layers, gates, lambda logits, x, _layer: gradient(logits, x, target) ** 2, root=True
    )
