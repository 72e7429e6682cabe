"""The gate: its settings, and how its scores and a method's gated relevance follow from a capture and the SAEs.

The method itself is in `fgg.gating`, as pure functions of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg import gating
from fgg.attribution import controls
from fgg.catalogue import CONSTRUCTIONS
from fgg.errors import FggError
from fgg.models.arguments import whole_number
from fgg.models.capture import Captured
from fgg.models.vit import at_patches
from fgg.saes.codes import codes_of, decoder_of

# Within these, gates and their products over the layers are finite in float32.
MOST_CLAMP, MOST_DIGITS = 1e6, 36
LEAST_ALPHA, MOST_ALPHA = 1e-6, 1e6


@dataclass(frozen=True)
class Gate:
    """A feature-gradient gate.

    Attributes:
        layers: gated blocks, counted from 0: one or several; kept as a sorted tuple.
        construction: ``combined``, ``activation_only``, ``gradient_only`` or ``no_sae``.
        clamp_max: the largest gate, above 1 and at most 1e6 (less for more than six layers, whose gates multiply); the
            smallest gate is its inverse.
        alpha: steepness, from 1e-6 to 1e6.
        shuffle_decoder: a control that takes feature gradients through a decoder with shuffled rows (combined only).
        shuffle_seed: seed of the shuffled order.

    Raises:
        FggError: a value of the wrong type or out of range.
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
        if not isinstance(self.construction, str) or self.construction not in CONSTRUCTIONS:
            raise FggError(
                f"gate.construction: {self.construction!r} is unknown; choose from {', '.join(CONSTRUCTIONS)}"
            )
        clamp_max, alpha = _number("clamp_max", self.clamp_max), _number("alpha", self.alpha)
        if not 1 < clamp_max <= MOST_CLAMP:
            raise FggError(f"gate.clamp_max: {self.clamp_max!r} must be above 1, and at most {MOST_CLAMP:g}")
        if len(self.layers) * math.log10(clamp_max) > MOST_DIGITS:
            raise FggError(
                f"gate.clamp_max: {self.clamp_max!r} at {len(self.layers)} layers leaves the range of float32; it must be "
                f"at most {10 ** (MOST_DIGITS / len(self.layers)):.4g} for so many"
            )
        if not LEAST_ALPHA <= alpha <= MOST_ALPHA:
            raise FggError(f"gate.alpha: {self.alpha!r} must be above 0, and from {LEAST_ALPHA:g} to {MOST_ALPHA:g}")
        object.__setattr__(self, "clamp_max", clamp_max)
        object.__setattr__(self, "alpha", alpha)
        if not isinstance(self.shuffle_decoder, bool | np.bool_):
            raise FggError(f"gate.shuffle_decoder: {self.shuffle_decoder!r} must be True or False")
        if self.shuffle_decoder and self.construction != "combined":
            raise FggError("gate.shuffle_decoder: a shuffled decoder is a control of the combined construction only")
        seed = whole_number(self.shuffle_seed, "gate.shuffle_seed", 0)
        if seed >= 2**63:
            raise FggError(f"gate.shuffle_seed: {self.shuffle_seed!r} must be below 2^63")
        object.__setattr__(self, "shuffle_seed", seed)

    @property
    def needs_sae(self) -> bool:
        """Whether the score is computed from an SAE's features."""
        return CONSTRUCTIONS[self.construction].needs_sae

    @property
    def gradient_layers(self) -> tuple[int, ...]:
        """The layers whose residual gradient the score reads."""
        return self.layers if CONSTRUCTIONS[self.construction].needs_gradient else ()


def _number(name: str, value: Any) -> float:
    """A real number as int or float; raises FggError for anything else."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise FggError(f"gate.{name}: {value!r} must be a number, such as 10.0")
    return value if isinstance(value, int) or type(value) is float else float(value)


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
    """The gate score s at a layer, (B, N), from a capture with that layer's residuals.

    Args:
        sae: any object with ``encode`` and ``W_dec`` (F, D); see `fgg.saes.codes`.

    Raises:
        FggError: the SAE gives no codes (B, N, F), or codes that are not finite.
    """
    residual = at_patches(model, captured.residuals[layer])
    gradient = captured.gradients.get(layer)
    gradient = torch.zeros_like(residual) if gradient is None else at_patches(model, gradient)
    codes = decoder = None
    if gate.needs_sae:
        with torch.no_grad():
            decoder = decoder_of(sae, residual)
            if gate.construction != "gradient_only":
                codes = codes_of(sae, residual, layer)
            if gate.shuffle_decoder:
                decoder = decoder[gating.shuffle(len(decoder), gate.shuffle_seed).to(decoder.device)]
    return gating.score(gate.construction, residual, gradient, codes, decoder)
