"""LibraGrad (Mehri et al. 2025): input x gradient with a balanced backward pass.

Attention weights, the gates of activations and the deviations of norms count as constants, and the two factors of a
gated MLP share the gradient. The model is then affine in its input, and input x gradient leaves out the biases only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.attribution.backward_rules import (
    check_rules,
    constant_attention,
    constant_norms,
    halved_gates,
    linear_activations,
)
from fgg.attribution.gradients import input_times_gradient
from fgg.attribution.registry import method


@contextlib.contextmanager
def balanced(model: VisionTransformer) -> Iterator[None]:
    """Inside the block, the model's backward pass is LibraGrad's; source: section 3.5 of the paper."""
    with constant_norms(model), linear_activations(model), constant_attention(model), halved_gates(model):
        yield


@method(
    title="LibraGrad",
    citation="Mehri et al. 2025, LibraGrad: Balancing Gradient Flow for Universally Better Vision Transformer Attributions",
    forward_passes=2,
    backward_passes=1,
    assumes="where the model attends and which units are active can be taken as given, not as caused by the input",
)
def libragrad(
    model: VisionTransformer,
    images: Tensor,
    target: Tensor,
    gates: Mapping[int, Tensor],
    layers: Sequence[int] | None = None,
) -> Tensor:
    """Input times the balanced gradient of the target's logit: (B, N).

    Args:
        layers: blocks after which relevance is measured at the tokens, and added; None measures it at the pixels.

    Raises:
        FggError: the model has a part that LibraGrad has no rule for, or lacks a layer.
    """
    check_rules(model, "libragrad", pixels=layers is None)
    with balanced(model):
        return input_times_gradient(model, images, target, layers, gates)
