"""AttnLRP (Achtibat et al. 2024): layer-wise relevance propagation through attention, as input x gradient.

Norms and activations pass relevance on unchanged (the identity rule), the factors of a product share it equally (the
uniform rule), and the softmax follows its Taylor rule, which is plain gradient x input. The softmax has a constant
part in its Taylor expansion. It keeps some relevance, as biases do, so tokens do not hold exactly all of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.attribution.backward_rules import (
    check_rules,
    constant_norms,
    gamma_rule,
    halved_attention,
    halved_gates,
    linear_activations,
)
from fgg.attribution.gradients import input_times_gradient
from fgg.attribution.registry import method
from fgg.errors import FggError


@contextlib.contextmanager
def relevance_rules(model: VisionTransformer, gamma: float = 0.0, gamma_projection: float = 0.0) -> Iterator[None]:
    """Inside the block, the model's backward pass follows AttnLRP's rules; source: section 3 of the paper."""
    with (
        constant_norms(model),
        linear_activations(model),
        halved_attention(model),
        halved_gates(model),
        gamma_rule(model, gamma, gamma_projection),
    ):
        yield


@method(
    title="AttnLRP",
    citation="Achtibat et al. 2024, AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers",
    forward_passes=2,
    backward_passes=1,
    assumes="each layer can hand its relevance back by a fixed rule, and what biases and softmax keep is small",
)
def attnlrp(
    model: VisionTransformer,
    images: Tensor,
    target: Tensor,
    gates: Mapping[int, Tensor],
    gamma: float = 0.0,
    gamma_projection: float = 0.0,
    layers: Sequence[int] | None = None,
) -> Tensor:
    """Relevance of the patches for the target's logit: (B, N).

    Args:
        gamma: weight of the gamma rule in all linear layers; 0 is the epsilon rule in the limit of no epsilon.
        gamma_projection: the same in the projection of the patches, which matters at the pixels only.
        layers: blocks after which relevance is measured at the tokens, and added; None measures it at the pixels.

    Raises:
        FggError: a negative gamma, or the model has a part that AttnLRP has no rule for, or lacks a layer.
    """
    for name, value in (("gamma", gamma), ("gamma_projection", gamma_projection)):
        if value < 0:
            raise FggError(f"attnlrp: {name} is {value}; it must be 0 or more")
    check_rules(model, "attnlrp", pixels=layers is None)
    with relevance_rules(model, gamma, gamma_projection):
        return input_times_gradient(model, images, target, layers, gates)
