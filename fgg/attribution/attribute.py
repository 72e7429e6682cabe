"""``attribute``: one call for every attribution method, gated or not; methods can share a pass of the model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg import degeneracy
from fgg.attribution.gate import Gate, gated, gates_of
from fgg.attribution.options import option_faults
from fgg.attribution.patches import to_patches
from fgg.attribution.registry import MASKS, Method, find_method, methods
from fgg.attribution.result import Attribution, join
from fgg.catalogue import CONTROLS
from fgg.errors import FggError
from fgg.models.arguments import full_precision, whole_number
from fgg.models.call_arguments import check_numbers, class_numbers, image_names, plain, seed_number
from fgg.models.capture import Captured, capture
from fgg.models.device import IMAGES, fitting, halved, images_per_batch
from fgg.models.vit import check_images, check_layers, patch_size, patches_of, reads_class_token
from fgg.randomness import content_id
from fgg.saes.sae import check_sae

Kind = tuple[bool, bool, bool]


@dataclass(frozen=True)
class Wanted:
    """One requested map: a method with its options, perhaps with a gate (or a control of it) and the gate's SAEs."""

    method: Method
    options: Mapping[str, Any] = field(default_factory=dict)
    gate: Gate | None = None
    saes: Mapping[int, Any] = field(default_factory=dict)
    control: str | None = None

    @property
    def kind_of_pass(self) -> Kind:
        """Maps with the same value can share a pass of the model, with bitwise the same results as separate passes.

        The parts say whether the attention matrix is formed, and whether gradients are computed, and up to the images.
        """
        needs = set(self.method.needs)
        if self.gate is not None:
            needs |= {"attention_gradients", "residual_gradients"}
        return (
            bool({"attention", "attention_gradients", "last_attention"} & needs),
            bool({"attention_gradients", "residual_gradients", "last_attention", "input_gradient"} & needs),
            "input_gradient" in needs,
        )

    @property
    def own_options(self) -> Mapping[str, Any]:
        """The method's options; a gate determines the layers of a method that has such an option."""
        if self.gate is None or "layers" not in self.method.options:
            return self.options
        return {**self.options, "layers": self.gate.layers}


@full_precision
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
    **options: Any,
) -> Attribution:
    """Explain a batch of images.

    Args:
        model: a timm VisionTransformer; the call does not change it.
        images: normalised float (B, C, H, W), on the model's device.
        method: one of ``fgg.methods()``, or ``module:function`` for your own.
        gate: the gate to apply to the method's relevance, if the method has a place for it; None applies none.
        saes: layer -> sae-lens SAE, for every gated layer, where the construction needs one; otherwise ignored.
        target: class per image, int64 (B,), or one for all; None explains the predicted class.
        control: a control of the gate, one of ``permuted_gate``, ``sharpened``, ``gate_values`` and ``gate_order``.
        image_ids: names that, together with ``seed``, determine the random method and the permuted gate; None derives
            them from the images.
        seed: see ``image_ids``.
        batch_size: images per pass; None chooses it from the model's size. torch.autocast is switched off inside.
        options: options of the method.

    Raises:
        FggError: an unknown method, control or option, a layer beyond the depth, a missing SAE or one of the wrong
            width, wrong images or target, a model that gives NaN.

    Warns:
        MeaninglessGate: a gate at the last two blocks of a model that reads the class token, whose score means nothing.
    """
    check_images(model, images)
    images = plain(images)
    if not isinstance(method, str):
        raise FggError(f"method must be a name, such as 'transmm' or 'module:function', not a {type(method).__name__}")
    if not isinstance(saes, Mapping | None):
        raise FggError(f"saes is a {type(saes).__name__}; give a dictionary, layer -> SAE")
    seed = seed_number(seed)
    wanted = Wanted(find_method(method), options, gate, saes or {}, control)
    _check(model, wanted)
    if gate is not None and reads_class_token(model):
        settings = {"gate": {"construction": gate.construction, "layers": gate.layers}}
        if remark := degeneracy.note(settings, degeneracy.expected(len(model.blocks))):
            text = f"the gate means nothing there: {remark}; see docs/protocols.md"
            warnings.warn(text, degeneracy.MeaninglessGate, stacklevel=3)
    if image_ids is None:
        image_ids = [content_id(image.detach().float().cpu().numpy()) for image in images]
    image_ids = image_names(image_ids, len(images))
    if target is not None:
        target = class_numbers(target, images.device)
        target = target.expand(len(images)) if target.ndim == 0 else target
        if target.shape != (len(images),):
            raise FggError(f"target is {tuple(target.shape)}, expected one class per image, ({len(images)},)")
    if batch_size is not None:
        batch_size = whole_number(batch_size, "batch_size")
    size = fitting(images_per_batch(model, batch_size), IMAGES, model)
    parts: list[Attribution] = []
    start = 0
    while start < len(images) or not parts:
        part = slice(start, start + size)
        chosen = None if target is None else target[part]
        try:
            parts += attribute_several(model, images[part], [wanted], chosen, image_ids[part], seed)
        except torch.OutOfMemoryError:
            size = halved(size, IMAGES, model)
            continue
        start += size
    found = join(parts)
    (height, width), (rows, columns) = patch_size(model), images.shape[2:]
    found.grid = rows // height, columns // width
    return found


def attribute_several(
    model: VisionTransformer,
    images: Tensor,
    wanted: Sequence[Wanted],
    target: Tensor | None,
    image_ids: Sequence[str],
    seed: int,
    masks: Mapping[str, Tensor] | None = None,
) -> list[Attribution]:
    """Compute several maps of a batch that fits into memory, with as few passes of the model as possible.

    Every map is bitwise the same as if it were computed alone.

    Args:
        masks: ``masks`` and ``decoys``, each (B, N), for the methods that read them.
    """
    passes: dict[Kind, list[Wanted]] = {}
    for each in wanted:
        if each.gate is not None or not each.method.own_pass:
            passes.setdefault(each.kind_of_pass, []).append(each)
    captured = {kind: _capture(model, images, target, together) for kind, together in passes.items()}
    given = {"model": model, "images": images, "image_ids": image_ids, "seed": seed, **(masks or {})}
    return [_map(each, captured, target, given) for each in wanted]


def _map(each: Wanted, captured: Mapping[Kind, Captured], target: Tensor | None, given: dict[str, Any]) -> Attribution:
    """One map of a batch, from the shared passes."""
    model, images = given["model"], given["images"]
    # A method with a pass of its own, and no gate, does not depend on which passes others share.
    shared = captured.get(each.kind_of_pass) if each.gate is not None or not each.method.own_pass else None
    own_target = target if shared is None else shared.target

    def relevance_with(gates: Mapping[int, Tensor]) -> tuple[Tensor, Captured, Mapping[str, Tensor]]:
        asked = _call(each, **given, target=own_target, captured=shared, gates=gates)
        seen, columns = shared, {}
        if each.method.own_pass:
            asked, own = asked
            seen = own if seen is None else seen
        if isinstance(asked, tuple):
            asked, columns = asked
        assert seen is not None
        return _per_patch(each.method, asked, model, images), seen, columns

    if each.gate is None:
        relevance, seen, columns = relevance_with({})
        return _result(seen, relevance, columns)
    assert shared is not None
    scores, gates = gates_of(model, shared, each.gate, each.saes, each.control, given["image_ids"], given["seed"])
    relevance, columns = gated(lambda own: relevance_with(own)[::2], gates, each.control)
    return _result(shared, relevance, columns, gates, scores)


def _check(model: VisionTransformer, wanted: Wanted) -> None:
    gate, control, method = wanted.gate, wanted.control, wanted.method
    if lacking := [name for name in MASKS if name in method.declaration.parameters]:
        raise FggError(f"method {method.name!r} reads the {lacking[0]} of a dataset; only the workflow can give them")
    if fault := next(option_faults(method, wanted.options, len(model.blocks)), None):
        raise FggError(fault)
    if gate is not None and wanted.options.get("layers") is not None:
        raise FggError(
            f"layers {wanted.options['layers']!r}: the gate determines the layers of a gated method; leave it out"
        )
    if gate is None:
        if control is not None:
            raise FggError(f"control {control!r} needs a gate")
        return
    if not isinstance(gate, Gate):
        raise FggError(f"gate is a {type(gate).__name__}; give fgg.Gate(layers=…)")
    if not method.gateable:
        known = ", ".join(name for name, own in methods().items() if own.gateable)
        raise FggError(f"method {method.name!r} has no place for a gate; choose from {known}")
    if control is not None and control not in CONTROLS:
        raise FggError(f"control {control!r} is unknown; choose from {', '.join(CONTROLS)}")
    check_layers(model, gate.layers)
    if gate.needs_sae:
        for layer in gate.layers:
            if layer not in wanted.saes:
                raise FggError(f"the gate at layer {layer} with construction {gate.construction!r} needs an SAE there")
            check_sae(wanted.saes[layer], model, layer)
            if isinstance(decoder := wanted.saes[layer].W_dec, Tensor):
                check_numbers(decoder, f"the SAE for layer {layer}")


def _capture(model: VisionTransformer, images: Tensor, target: Tensor | None, together: Sequence[Wanted]) -> Captured:
    """Run one pass of the model that captures what all of these need."""
    needs: set[str] = set()
    layers: set[int] = set()
    gradients: set[int] = set()
    for each in together:
        if each.gate is not None:
            needs.add("attention_gradients")
            layers |= set(each.gate.layers)
            gradients |= set(each.gate.gradient_layers)
        needs |= set(each.method.needs)
        own = {layer if layer >= 0 else len(model.blocks) + layer for layer in each.method.layers}
        layers |= own if "residuals" in each.method.needs else set()
        gradients |= own if "residual_gradients" in each.method.needs else set()
    return capture(
        model,
        images,
        target,
        cams="attention_gradients" in needs,
        attention="attention" in needs,
        last_attention="last_attention" in needs,
        layers=sorted(layers),
        gradients=sorted(gradients),
        input_gradient="input_gradient" in needs,
    )


def _call(wanted: Wanted, **given: Any) -> Any:
    """Call the method's function with its options and with those of the given values that its parameters name."""
    own = wanted.method.declaration
    arguments = {name: value for name, value in given.items() if name in own.parameters}
    return own.load()(**arguments, **wanted.own_options)


def _per_patch(method: Method, relevance: Any, model: VisionTransformer, images: Tensor) -> Tensor:
    """Convert what a method returned to relevance (B, N). Raises FggError if the shape does not fit."""
    patches, size = patches_of(model, images), tuple(images.shape[2:])
    relevance = torch.from_numpy(relevance) if isinstance(relevance, np.ndarray) else relevance
    if isinstance(relevance, Tensor) and len(relevance) == len(images):
        if relevance.shape == (len(images), patches):
            return relevance
        if relevance.ndim in (3, 4) and tuple(relevance.shape[-2:]) == size:
            return to_patches(relevance.detach(), patch_size(model))
    found = tuple(relevance.shape) if isinstance(relevance, Tensor) else type(relevance).__name__
    raise FggError(
        f"method {method.name!r} returned {found}; it must return a tensor ({len(images)}, {patches}) per patch, or "
        f"({len(images)}, {size[0]}, {size[1]}) per pixel, perhaps with channels before the rows"
    )


def _result(
    seen: Captured,
    relevance: Tensor,
    columns: Mapping[str, Tensor],
    gates: Mapping[int, Tensor] | None = None,
    scores: Mapping[int, Tensor] | None = None,
) -> Attribution:
    return Attribution(
        relevance.detach().float(),
        seen.predicted,
        seen.confidence,
        seen.logits,
        seen.target,
        dict(gates or {}),
        dict(scores or {}),
        {name: values.detach().float() for name, values in columns.items()},
    )
