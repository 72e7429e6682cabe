"""What place in a model an SAE's hook names, and whether that is the end of a block.

Hooks are understood in the forms of TransformerLens, Prisma, sae-lens, saev, open_clip, timm and Hugging Face. For block 7
``blocks.7.hook_resid_post``, ``blocks.8.hook_resid_pre``, ``blocks.7``, ``encoder.layers.7``,
``visual.transformer.resblocks.7`` and ``hidden_states.8`` all name the same place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fgg.errors import FggError

RESIDUAL = "hook_resid_post"
CHECKED, UNKNOWN, UNCHECKED = "checked", "unknown", "unchecked"
LAYER_KEYS = ("layer", "hook_layer", "hook_point_layer")

BLOCKS = ("blocks", "block", "layers", "layer", "resblocks", "resblock", "h")
NUMBER = r"-?\d+"
JOINED = re.compile(rf"(?:encoder_)?(block|layer|resblock)s?_?({NUMBER})")  # torchvision's encoder_layer_7, layer7
RESIDUAL_FIRST = re.compile(r"(?:hook_)?(resid_(?:pre|mid|post))(?:_layer)?_?(\d+)")  # resid_post_layer_7
END = ("", "hook_resid_post", "resid_post", "hook_out", "out", "output", "outputs", "output.0", "outputs.0")
START = ("hook_resid_pre", "resid_pre", "hook_in", "in", "input", "inputs", "input.0", "inputs.0")
INSIDE = re.compile(
    r"(hook_)?(resid_mid|attention|self_attention|self_attn|attn|mlp|feed_forward|ffn|layernorm|layer_norm|ln|norm"
    r"|layer_scale|lambda|ls|drop_path|dropout|drop|intermediate|qkv|q|k|v|z|rot_q|rot_k|result|pattern|proj|fc|act|moe)"
    r"(_?\d+)?(_\w+)?"
)
OUTSIDE = re.compile(
    r"(hook_)?((full_|pos_|cls_|patch_|tok_)?embed(ding|dings)?(_\w+)?|positional_embedding|conv1|ln_pre|ln_post|ln_final"
    r"|norm_pre|pre_?layer_?norm|pre_layrnorm|post_?layer_?norm|norm|fc_norm|layernorm|head(_\w+)?|post_head\w*|pooler"
    r"|classifier|visual_projection|logits|pixel_values)"
)
OTHER_PARTS = ("text", "text_model", "text_encoder", "text_tower", "language_model", "llm", "qformer", "decoder")
DECODERS = ("decoder_blocks", "decoder_layers", "predictor")


@dataclass(frozen=True)
class Place:
    """A place in a model.

    ``layer`` is the block at whose end the residual stream is read, -1 for its start before the first block, and None for
    another place. ``words`` describe it.
    """

    layer: int | None
    words: str


def understand(hook: str, layer: int, depth: int) -> Place | None:
    """The place that a hook names, or None if it cannot be understood.

    Args:
        hook: the hook's name.
        layer: the block at whose end the SAE is to be used. Something unknown of another block cannot be that place.
        depth: the model's number of blocks, from which negative numbers count back.
    """
    parts = _parts(hook)
    if set(parts) & {*OTHER_PARTS, *DECODERS}:
        return Place(None, "in another part of the model")
    if len(parts) > 1 and parts[-2] == "hidden_states" and re.fullmatch(NUMBER, parts[-1]):
        number = int(parts[-1])
        return _end(number - 1 if number >= 0 else number + depth)
    found = [at for at, (name, number) in enumerate(pairwise(parts)) if _is_block(name, number)]
    if not found:
        outside = any(OUTSIDE.fullmatch(part) for part in parts)
        return Place(None, "outside the blocks") if outside else None
    tail = parts[found[0] + 2 :]
    if len(found) > 1 or any(re.fullmatch(NUMBER, part) for part in tail[:1]):
        return None  # blocks within stages, which count anew in each
    number = int(parts[found[0] + 1])
    return _within(number + depth if number < 0 else number, tail, layer)


def _within(block: int, tail: list[str], layer: int) -> Place | None:
    name = ".".join(tail)
    if name in END:
        return _end(block)
    if name in START:
        return _end(block - 1)
    if INSIDE.fullmatch(tail[0]) or tail[0] in ("output", "attention"):
        return Place(None, f"inside block {block}")
    return None if layer in (block, block - 1) else Place(None, f"somewhere in block {block}")


def _end(block: int) -> Place:
    return Place(block, f"the end of block {block}") if block >= 0 else Place(-1, "before the first block")


def _is_block(name: str, number: str) -> bool:
    return name in BLOCKS and re.fullmatch(NUMBER, number) is not None


def _parts(hook: str) -> list[str]:
    """The hook's names in lower case; ``layers[7]``, ``layer_7`` and ``resid_post_7`` become names and numbers."""
    text = re.sub(rf"\[({NUMBER})\]", r".\1", hook.strip().lower()).replace("/", ".")
    parts: list[str] = []
    for part in filter(None, text.split(".")):
        if joined := JOINED.fullmatch(part):
            parts += [joined[1], joined[2]]
        elif first := RESIDUAL_FIRST.fullmatch(part):
            parts += ["block", first[2], first[1]]
        else:
            parts.append(part)
    return parts


def check_place(metadata: Mapping[str, Any], layer: int, depth: int, wanted: str = CHECKED) -> str:
    """Whether an SAE with this metadata reads the end of a layer: ``checked``, ``unknown`` or ``unchecked``.

    Args:
        metadata: what the SAE says about itself: ``hook_name``, else ``layer``.
        layer: the block at whose end it is to be used.
        depth: the model's number of blocks.
        wanted: ``checked``, or ``unchecked`` for the user's word that the SAE fits.

    Raises:
        FggError: the SAE says that it reads another place.
    """
    if wanted == UNCHECKED:
        return UNCHECKED
    hook = str(metadata.get("hook_name") or "")
    place = understand(hook, layer, depth) if hook else None
    numbers = [metadata.get(key) for key in LAYER_KEYS]
    said = next((number for number in numbers if isinstance(number, int) and not isinstance(number, bool)), None)
    if place is None and said is not None and said not in (layer, layer - depth):
        place, hook = Place(None, f"layer {said}"), hook or f"layer {said}"
    if place is None:
        return UNKNOWN
    if place.layer != layer:
        meant = "" if place.words == hook or hook.endswith(RESIDUAL) else f" ({hook} is {place.words})"
        raise FggError(
            f"sae.weights: the SAE for layer {layer} was trained on {hook}, not on blocks.{layer}.{RESIDUAL}{meant}; check "
            "the path and its {layer}, use the SAE at its own layer, or set sae.place: unchecked if you know that it fits"
        )
    kept = metadata.get("place")
    return kept if kept in (UNKNOWN, UNCHECKED) else CHECKED


def in_words(metadata: Mapping[str, Any], layer: int, place: str) -> str | None:
    """What a log says about a place that was not checked; None if it was."""
    if place == CHECKED:
        return None
    hook = metadata.get("hook_name")
    named = f"says that it reads {hook}" if hook else "does not say what it reads"
    if place == UNCHECKED:
        return f"the SAE {named}; that this is the end of block {layer} is the user's word (sae.place: unchecked)"
    why = ", which fgg does not understand" if hook else ""
    return f"the SAE {named}{why}; whether this is the end of block {layer} was not checked (place: unknown)"
