"""``attribute``: one call for every attribution method, gated or not."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg import degeneracy, gating
from fgg.attribution import controls, gradcam, rollout, tokentm
from fgg.catalogue import CONSTRUCTIONS, CONTROLS, METHODS
from fgg.errors import FggError
from fgg.models.capture import Captured, capture
from fgg.models.device import halved, images_per_batch
from fgg.models.vit import check_images, check_layers, patch_size, readout, reads_class_token
from fgg.randomness import content_id
from fgg.saes.sae import check_sae


@dataclass(frozen=True)
class Gate:
    """A feature-gradient gate of TransMM.

    Attributes:
        layers: gated blocks, from 0: several, or one; kept as a sorted tuple.
        construction: ``combined``, ``activation_only``, ``gradient_only`` or ``no_sae``.
        clamp_max: largest gate, above 1; the smallest is its inverse.
        alpha: steepness, above 0.
        shuffle_decoder: control: feature gradients through a decoder with shuffled rows (combined only).
        shuffle_seed: seed of that order.

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


def _layers(layers: Any) -> tuple[int, ...]:
    """One layer or several as a sorted tuple."""
    found = tuple(layers) if isinstance(layers, Iterable) else (layers,)
    if not all(isinstance(layer, Integral) and not isinstance(layer, bool) for layer in found):
        raise FggError(f"gate.layers: {layers!r} must be a whole number from 0 or several, such as 2 or (1, 2)")
    return tuple(sorted(map(int, found)))


@dataclass
class Attribution:
    """Relevance of the patches, and what the model said. B images, N patches, K classes.

    Attributes:
        relevance: float32 (B, N), patches row by row.
        predicted: int64 (B,).
        confidence: float32 (B,), probability of the predicted class.
        logits: float32 (B, K).
        target: int64 (B,), the class explained.
        gates: layer -> (B, N), the gates as applied.
        scores: layer -> (B, N), the gate scores s.
    """

    relevance: Tensor
    predicted: Tensor
    confidence: Tensor
    logits: Tensor
    target: Tensor
    gates: dict[int, Tensor] = field(default_factory=dict)
    scores: dict[int, Tensor] = field(default_factory=dict)


def attribute(
    model: VisionTransformer,
    images: Tensor,
    method: str = "transmm",
    gate: Gate | None = None,
    saes: Mapping[int, Any] | None = None,
    target: Tensor | int | None = None,
    *,
    control: str | None = None,
    image_ids: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> Attribution:
    """Explain a batch of images.

    Args:
        model: a timm VisionTransformer; it leaves the call as it came.
        images: normalised float (B, C, H, W), on the model's device.
        method: one of ``fgg.catalogue.METHODS``; a gate goes with ``transmm`` only.
        gate: gate TransMM's relevance.
        saes: layer -> sae-lens SAE, for every gated layer, where the construction needs one; not looked at otherwise.
        target: class per image, int64 (B,), or one for all; None explains the predicted class.
        control: ``permuted_gate`` or ``sharpened``, a control of the gate.
        image_ids: names that key the random method and the permuted gate; None takes keys from the images.
        seed: key of the same.
        batch_size: images per pass; None chooses it from the model's size.

    Raises:
        FggError: an unknown method or control, a layer beyond the depth, a missing SAE or one of the wrong
            width, wrong images or target, a model that gives NaN.

    Warns:
        MeaninglessGate: a gate at the last two blocks of a model that reads the class token, whose score means nothing.
    """
    check_images(model, images)
    _check(model, method, gate, saes, control)
    if gate is not None and reads_class_token(model):
        settings = {"gate": {"construction": gate.construction, "layers": gate.layers}}
        if remark := degeneracy.note(settings, degeneracy.expected(len(model.blocks))):
            text = f"the gate means nothing there: {remark}; see docs/protocols.md"
            warnings.warn(text, degeneracy.MeaninglessGate, stacklevel=2)
    if image_ids is None:
        image_ids = [content_id(image.detach().float().cpu().numpy()) for image in images]
    if len(image_ids) != len(images):
        raise FggError(f"{len(image_ids)} image_ids for {len(images)} images")
    if target is not None:
        target = torch.as_tensor(target, device=images.device)
        target = target.expand(len(images)) if target.ndim == 0 else target
        if target.shape != (len(images),):
            raise FggError(f"target is {tuple(target.shape)}, expected one class per image, ({len(images)},)")
    if batch_size is not None and batch_size < 1:
        raise FggError(f"batch_size: {batch_size} must be at least 1")
    size = images_per_batch(model, batch_size)
    parts: list[Attribution] = []
    start = 0
    while start < len(images) or not parts:
        part = slice(start, start + size)
        chosen = None if target is None else target[part]
        try:
            parts.append(
                _attribute_batch(model, images[part], method, gate, saes or {}, chosen, control, image_ids[part], seed)
            )
        except torch.OutOfMemoryError:
            size = halved(size, "images per batch")
            continue
        start += size
    return _join(parts)


def _check(
    model: VisionTransformer, method: str, gate: Gate | None, saes: Mapping[int, Any] | None, control: str | None
) -> None:
    if method not in METHODS:
        raise FggError(f"method {method!r} is unknown; choose from {', '.join(METHODS)}")
    if gate is None:
        if control is not None:
            raise FggError(f"control {control!r} needs a gate")
        return
    if not isinstance(gate, Gate):
        raise FggError(f"gate is a {type(gate).__name__}; give fgg.Gate(layers=…)")
    if method != "transmm":
        raise FggError(f"a gate goes with method 'transmm', not {method!r}")
    if control is not None and control not in CONTROLS:
        raise FggError(f"control {control!r} is unknown; choose from {', '.join(CONTROLS)}")
    check_layers(model, gate.layers)
    if CONSTRUCTIONS[gate.construction].needs_sae:
        for layer in gate.layers:
            if layer not in (saes or {}):
                raise FggError(f"the gate at layer {layer} with construction {gate.construction!r} needs an SAE there")
            check_sae(saes[layer], model, layer)


def _attribute_batch(model, images, method, gate, saes, target, control, image_ids, seed) -> Attribution:
    if method == "random":
        seen = capture(model, images, target)
        height, width = patch_size(model)
        patches = (images.shape[2] // height) * (images.shape[3] // width)
        rows = controls.random_relevance(image_ids, patches, seed)
        return _result(seen, torch.from_numpy(rows).to(images.device))
    if method == "gradcam":
        layer = len(model.blocks) - 2
        seen = capture(model, images, target, layers=[layer])
        return _result(seen, gradcam.relevance(*_at_patches(model, seen, layer)))
    if method == "rollout":
        seen = capture(model, images, target, attention=True)
        return _result(seen, _patches(model, rollout.relevance(seen.attention, _row(model, seen.attention[0]))))
    if method == "tokentm":
        return _result(*tokentm.attribute(model, images, target))
    layers = gate.layers if gate else ()
    with_gradient = layers if gate and CONSTRUCTIONS[gate.construction].needs_gradient else ()
    seen = capture(model, images, target, cams=True, layers=layers, gradients=with_gradient)
    row = _row(model, seen.cams[0])
    if gate is None:
        return _result(seen, _patches(model, gating.relevance(seen.cams, row)))
    scores = {layer: gate_score(model, seen, layer, gate, saes.get(layer)) for layer in layers}
    gates = {layer: gating.gate(scores[layer], gate.clamp_max, gate.alpha) for layer in layers}
    if control == "permuted_gate":
        for layer in layers:
            order = controls.permutation(image_ids, gates[layer].shape[1], layer, seed)
            gates[layer] = gates[layer].gather(1, torch.from_numpy(order).to(images.device))
    gated = _patches(model, gating.relevance(seen.cams, row, gates))
    if control == "sharpened":
        vanilla = _patches(model, gating.relevance(seen.cams, row))
        gated = torch.from_numpy(controls.sharpen(vanilla.cpu().numpy(), gated.cpu().numpy())).to(images.device)
    return _result(seen, gated, gates, scores)


def gate_score(model: VisionTransformer, seen: Captured, layer: int, gate: Gate, sae: Any | None) -> Tensor:
    """The gate score s at a layer, (B, N), from a capture with that layer's residuals."""
    residual, gradient = _at_patches(model, seen, layer)
    codes = decoder = None
    if CONSTRUCTIONS[gate.construction].needs_sae:
        with torch.no_grad():
            decoder = sae.W_dec.detach()
            if gate.construction != "gradient_only":
                codes = sae.encode(residual)
            if gate.shuffle_decoder:
                decoder = decoder[gating.shuffle(len(decoder), gate.shuffle_seed).to(decoder.device)]
    return gating.score(gate.construction, residual, gradient, codes, decoder)


def _row(model: VisionTransformer, like: Tensor) -> Tensor:
    return readout(model, like.shape[0], like.shape[1], like)


def _patches(model: VisionTransformer, tokens: Tensor) -> Tensor:
    return tokens[:, model.num_prefix_tokens :]


def _at_patches(model: VisionTransformer, seen: Captured, layer: int) -> tuple[Tensor, Tensor]:
    residual = _patches(model, seen.residuals[layer])
    gradient = seen.gradients.get(layer)
    return residual, torch.zeros_like(residual) if gradient is None else _patches(model, gradient)


def _result(seen: Captured, relevance: Tensor, gates=None, scores=None) -> Attribution:
    return Attribution(
        relevance.detach().float(), seen.predicted, seen.confidence, seen.logits, seen.target, gates or {}, scores or {}
    )


def _join(parts: list[Attribution]) -> Attribution:
    if len(parts) == 1:
        return parts[0]
    tensors: dict[str, Any] = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("relevance", "predicted", "confidence", "logits", "target")
    }
    for name in ("gates", "scores"):
        tensors[name] = {
            layer: torch.cat([getattr(part, name)[layer] for part in parts]) for layer in getattr(parts[0], name)
        }
    return Attribution(**tensors)
