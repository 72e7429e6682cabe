"""The gate: its settings, and how its scores and a method's gated relevance follow from a capture and the SAEs.

The method itself is in `fgg.gating`, as pure functions of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg import gating
from fgg.attribution import controls
from fgg.catalogue import CONSTRUCTIONS
from fgg.errors import FggError
from fgg.models.capture import Captured
from fgg.models.vit import at_patches


@dataclass(frozen=True)
class Gate:
    """A feature-gradient gate.

    Attributes:
        layers: gated blocks, counted from 0: one or several; kept as a sorted tuple.
        construction: ``combined``, ``activation_only``, ``gradient_only`` or ``no_sae``.
        clamp_max: the largest gate, above 1; the smallest gate is its inverse.
        alpha: steepness, above 0.
        shuffle_decoder: a control that takes feature gradients through a decoder with shuffled rows (combined only).
        shuffle_seed: seed of the shuffled order.

    Raises:
        FggError: a value out of range.
    """

    layers: tuple[int, ...]
    construction: str = "combined"
    clamp_max: float = 10.0
    alpha: float = 1.0
    shuffle_decoder: bool = False
    shuffle_seed: int = 12345

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", _layers(self.layers))
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise FggError(f"gate.layers: {self.layers} must name at least one layer, each once")
        if self.construction not in CONSTRUCTIONS:
            raise FggError(
                f"gate.construction: {self.construction!r} is unknown; choose from {', '.join(CONSTRUCTIONS)}"
            )
        if not 1 < self.clamp_max < math.inf:
            raise FggError(f"gate.clamp_max: {self.clamp_max} must be above 1, and finite")
        if not 0 < self.alpha < math.inf:
            raise FggError(f"gate.alpha: {self.alpha} must be above 0, and finite")
        if self.shuffle_decoder and self.construction != "combined":
            raise FggError("gate.shuffle_decoder: a shuffled decoder is a control of the combined construction only")

    @property
    def needs_sae(self) -> bool:
        """Whether the score is computed from an SAE's features."""
        return CONSTRUCTIONS[self.construction].needs_sae

    @property
    def gradient_layers(self) -> tuple[int, ...]:
        """The layers whose residual gradient the score reads."""
        return self.layers if CONSTRUCTIONS[self.construction].needs_gradient else ()


def _layers(layers: Any) -> tuple[int, ...]:
    """One layer or several as a sorted tuple."""
    found = tuple(layers) if isinstance(layers, Iterable) else (layers,)
    if not all(isinstance(layer, Integral) and not isinstance(layer, bool) for layer in found):
        raise FggError(f"gate.layers: {layers!r} must be a whole number from 0 or several, such as 2 or (1, 2)")
    return tuple(sorted(map(int, found)))


def gates_of(
    model: VisionTransformer,
    captured: Captured,
    gate: Gate,
    saes: Mapping[int, Any],
    control: str | None,
    image_ids: Sequence[str],
    seed: int,
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Layer -> gate scores (B, N), and layer -> gates as applied (B, N).

    Args:
        captured: must hold the residuals and their gradients at the gated layers.
        control: one of `fgg.catalogue.CONTROLS`, or None; ``permuted_gate`` moves the gates to other patches.
        image_ids: names that, together with ``seed``, determine the permuted gate.
    """
    scores = {layer: gate_score(model, captured, layer, gate, saes.get(layer)) for layer in gate.layers}
    gates = {layer: gating.gate(scores[layer], gate.clamp_max, gate.alpha) for layer in gate.layers}
    if control == "permuted_gate":
        for layer, own in gates.items():
            order = controls.permutation(image_ids, own.shape[1], layer, seed)
            gates[layer] = own.gather(1, torch.from_numpy(order).to(own.device))
    return scores, gates


def gated(
    relevance: Callable[[Mapping[int, Tensor]], tuple[Tensor, Mapping[str, Tensor]]],
    gates: Mapping[int, Tensor],
    control: str | None,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The gated map of a method, or a control that is made of its map with and without the gate.

    Args:
        relevance: gives the method's relevance (B, N), and its columns, with some gates.
    """
    found, columns = relevance(gates)
    if control not in RESHAPED:
        return found, columns
    vanilla = relevance({})[0]
    own = RESHAPED[control](vanilla.detach().cpu().numpy(), found.detach().cpu().numpy())
    return torch.from_numpy(own).to(found.device), columns


# Controls that are computed from the two maps alone: name -> function of the vanilla and the gated map.
RESHAPED: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "sharpened": controls.sharpen,
    "gate_values": lambda vanilla, gated_map: controls.laid(gated_map, vanilla),
    "gate_order": controls.laid,
}


def gate_score(model: VisionTransformer, captured: Captured, layer: int, gate: Gate, sae: Any | None) -> Tensor:
    """The gate score s at a layer, (B, N), from a capture with that layer's residuals."""
    residual = at_patches(model, captured.residuals[layer])
    gradient = captured.gradients.get(layer)
    gradient = torch.zeros_like(residual) if gradient is None else at_patches(model, gradient)
    codes = decoder = None
    if gate.needs_sae:
        with torch.no_grad():
            decoder = sae.W_dec.detach()
            if gate.construction != "gradient_only":
                codes = sae.encode(residual)
            if gate.shuffle_decoder:
                decoder = decoder[gating.shuffle(len(decoder), gate.shuffle_seed).to(decoder.device)]
    return gating.score(gate.construction, residual, gradient, codes, decoder)
