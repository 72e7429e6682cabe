"""Which SAE feature changed the relevance of which patch. B images, N patches, F features.

The change of a patch is computed from the maps as displayed: enlarged bilinearly to the size of the input, and scaled
to 0 to 1 in each image. A feature's contribution is its term in the score of the gate. The dominant feature of a patch
is the one with the strongest contribution in the direction of the patch's change: it BOOSTs or SUPPRESSes the patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional

from fgg import gating
from fgg.attribution.gate import Gate
from fgg.cases.case_tables import BOOST as BOOST  # `features.BOOST` has been this module's name for it
from fgg.cases.case_tables import SUPPRESS as SUPPRESS
from fgg.cases.prototypes import MOST_FLOATS
from fgg.models.capture import capture


@dataclass
class Dominant:
    """The dominant feature of every patch; all attributes have shape (B, N).

    Attributes:
        feature: int64, -1 where no feature contributes in the direction of the change.
        activation: float32, its activation f_k. This and the next two are NaN where there is no dominant feature.
        gradient: float32, the feature gradient h_k.
        contribution: float32, its term in the score.
    """

    feature: Tensor
    activation: Tensor
    gradient: Tensor
    contribution: Tensor


def seen_relevance(relevance: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Mean over each patch of the map as displayed: (B, N) to (B, N), from 0 to 1.

    Args:
        grid: rows and columns of patches.
        size: height and width of the model's input, to which the map is enlarged.
    """
    maps = functional.interpolate(relevance.unflatten(1, grid)[:, None], size, mode="bilinear", align_corners=False)
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    maps = (maps - low) / (high - low + 1e-8)
    return functional.adaptive_avg_pool2d(maps, grid).flatten(1)


def most_changed(change: Tensor, count: int) -> Tensor:
    """The patches with the largest absolute change, (B, N) to int64 (B, count), largest first; ties by patch index."""
    return change.abs().sort(dim=1, descending=True, stable=True).indices[:, :count]


def contributions(construction: str, codes: Tensor, gradients: Tensor) -> Tensor:
    """Each feature's term in the gate's score, from activations f and feature gradients h, all (…, F).

    The term is f_k h_k for ``combined``, f_k for ``activation_only`` and h_k for ``gradient_only``.
    """
    if construction == "combined":
        return codes * gradients
    if construction == "activation_only":
        return codes
    if construction == "gradient_only":
        return gradients
    raise ValueError(f"construction {construction!r} has no features")


def dominant(construction: str, codes: Tensor, gradients: Tensor, change: Tensor) -> Dominant:
    """The dominant features of patches (…) from activations and feature gradients (…, F) and changes (…).

    A patch that did not change has no dominant feature.
    """
    sign = change.sign()[..., None]
    terms = contributions(construction, codes, gradients)
    strength, feature = (terms * sign).max(-1)
    none = ~(strength > 0)
    chosen = feature[..., None]

    def take(values: Tensor) -> Tensor:
        return values.gather(-1, chosen)[..., 0].float().masked_fill(none, torch.nan)

    return Dominant(feature.masked_fill(none, -1), take(codes), take(gradients), take(terms))


def dominant_in_batch(
    model: VisionTransformer,
    images: Tensor,
    gate: Gate,
    saes: Mapping[int, Any],
    change: Tensor,
    target: Tensor | None = None,
) -> dict[int, Dominant]:
    """Dominant features of all patches at every gated layer, for a batch of normalised images (B, C, H, W).

    Args:
        saes: layer -> SAE.
        change: (B, N), the change of the relevance by the gate.
        target: int64 (B,), the class explained; None takes the predicted one.
    """
    seen = capture(model, images, target, layers=gate.layers)
    first = model.num_prefix_tokens
    found = {}
    for layer in gate.layers:
        sae = saes[layer]
        decoder = sae.W_dec.detach()
        if gate.shuffle_decoder:
            decoder = decoder[gating.shuffle(len(decoder), gate.shuffle_seed).to(decoder.device)]
        # Codes and gradients of all features are computed for a few images at a time.
        step = max(1, MOST_FLOATS // (change.shape[1] * len(decoder)))
        parts = []
        for start in range(0, len(images), step):
            part = slice(start, start + step)
            with torch.no_grad():
                codes = sae.encode(seen.residuals[layer][part, first:])
                gradients = seen.gradients[layer][part, first:] @ decoder.T
                parts.append(dominant(gate.construction, codes, gradients, change[part]))
        found[layer] = join(parts)
    return found


def join(parts: Sequence[Dominant]) -> Dominant:
    """Concatenate along the images."""
    names = ("feature", "activation", "gradient", "contribution")
    return Dominant(*(torch.cat([getattr(part, name) for part in parts]) for name in names))
