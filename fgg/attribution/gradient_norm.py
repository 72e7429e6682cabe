"""The length of the gradient (Simonyan et al. 2014)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.attribution.gradients import of_one_pass
from fgg.attribution.registry import method
from fgg.models.capture import Captured


@method(
    title="Gradient norm",
    citation="Simonyan et al. 2014, Deep Inside Convolutional Networks (Euclidean norm of the gradient per patch)",
    forward_passes=1,
    backward_passes=1,
    own_pass=True,
    assumes="what the logit reacts to is what it rests on; it has no sign",
)
def gradient_norm(
    model: VisionTransformer,
    images: Tensor,
    target: Tensor | None,
    gates: Mapping[int, Tensor],
    layers: Sequence[int] | None = None,
) -> tuple[Tensor, Captured]:
    """The Euclidean norm of the gradient of the target's logit over each patch, (B, N), and what was captured.

    Args:
        layers: blocks after which it is measured at the tokens, and added; None measures it at the pixels.
    """
    return of_one_pass(model, images, target, layers, gates, lambda _x, slope: slope**2, root=True)
