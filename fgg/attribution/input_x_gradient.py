"""Input x gradient (Shrikumar et al. 2016)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.attribution.gradients import of_one_pass
from fgg.attribution.registry import method
from fgg.models.capture import Captured


@method(
    title="Input × gradient",
    citation="Shrikumar et al. 2016, Not Just a Black Box: Learning Important Features Through Propagating Activation Differences",
    forward_passes=1,
    backward_passes=1,
    own_pass=True,
    assumes="the logit is nearly linear between the image and the zero input",
)
def input_x_gradient(
    model: VisionTransformer,
    images: Tensor,
    target: Tensor | None,
    gates: Mapping[int, Tensor],
    layers: Sequence[int] | None = None,
) -> tuple[Tensor, Captured]:
    """Input times the gradient of the target's logit, (B, N), and what was captured.

    Args:
        layers: blocks after which relevance is measured at the tokens, and added; None measures it at the pixels.
    """
    return of_one_pass(model, images, target, layers, gates, lambda x, slope: x * slope)
