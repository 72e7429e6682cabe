"""The names that Hugging Face's transformers give ViT, DeiT, DINOv2 and BEiT, before and since version 5, as timm's names."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from fgg.errors import FggError, names

# Model type -> epsilon of its layer norms, if no config.json says it.
FAMILIES = {"vit": 1e-12, "deit": 1e-12, "dinov2": 1e-6, "dinov2_with_registers": 1e-6, "beit": 1e-12}
LAYER = r"(?:encoder\.)?layers?\.(\d+)\."
PATTERNS = (
    (r"embeddings\.cls_token", r"cls_token"),
    (r"embeddings\.(?:distillation_token|register_tokens)", r"reg_token"),
    (r"embeddings\.mask_token", r"mask_token"),
    (r"embeddings\.position_embeddings", r"pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (r"layernorm\.(\w+)", r"norm.\1"),
    (rf"{LAYER}(?:layernorm_before|norm1)\.(\w+)", r"blocks.\1.norm1.\2"),
    (rf"{LAYER}(?:layernorm_after|norm2)\.(\w+)", r"blocks.\1.norm2.\2"),
    (rf"{LAYER}attention\.(?:output\.dense|o_proj)\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (rf"{LAYER}attention\.(?:attention\.query|q_proj)\.(\w+)", r"blocks.\1.attn.q.\2"),
    (rf"{LAYER}attention\.(?:attention\.key|k_proj)\.(\w+)", r"blocks.\1.attn.k.\2"),
    (rf"{LAYER}attention\.(?:attention\.value|v_proj)\.(\w+)", r"blocks.\1.attn.v.\2"),
    (rf"{LAYER}(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (rf"{LAYER}(?:output\.dense|mlp\.fc2|mlp\.weights_out|mlp\.down_proj)\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (rf"{LAYER}mlp\.(gate|up)_proj\.(\w+)", r"blocks.\1.mlp.\2.\3"),
    (rf"{LAYER}layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    # BEiT's.
    (rf"{LAYER}lambda_([12])", r"blocks.\1.gamma_\2"),
    (rf"{LAYER}(?:attention\.attention\.)?relative_position_bias\.(relative_position_\w+)", r"blocks.\1.attn.\2"),
    (r"(?:encoder\.relative_position_bias|shared_position_bias)\.(relative_position_\w+)", r"rel_pos_bias.\1"),
    (r"pooler\.layernorm\.(\w+)", r"fc_norm.\1"),
)
# Matrices that timm stacks: the parts, and the whole.
STACKED = (((".attn.q.", ".attn.k.", ".attn.v."), ".attn.qkv."), ((".mlp.gate.", ".mlp.up."), ".mlp.fc1."))
# The heads of DeiTForImageClassificationWithTeacher, on the class and the distillation token, and timm's.
TWO_HEADS = {"cls_classifier": "head", "distillation_classifier": "head_dist"}
TWO_HEADS_TOKEN = ("embeddings.distillation_token", "dist_token")


def from_hugging_face(state: Mapping[str, Tensor], prefix: str, notes: list[str]) -> dict[str, Tensor]:
    """A state dict of transformers with timm's names; names that are not known stay.

    Args:
        state: as transformers name it, with the classifier at the top.
        prefix: what stands before the names of the backbone, such as ``vit.``.
        notes: gets what was left out.

    Raises:
        FggError: projections of which a part is missing.
    """
    distilled = "distillation_classifier.weight" in state
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        short = name.removeprefix(prefix)
        if short.startswith("pooler.dense.") and ("classifier.weight" in state or distilled):
            notes.append(f"left out {name}, which the classifier does not read")
            continue
        if distilled:
            outer, _, part = short.rpartition(".")
            short = f"{TWO_HEADS[outer]}.{part}" if outer in TWO_HEADS else short
            short = TWO_HEADS_TOKEN[1] if short == TWO_HEADS_TOKEN[0] else short
        new = next((re.sub(old, new, short) for old, new in PATTERNS if re.fullmatch(old, short)), short)
        if new in found:
            raise FggError(f"holds {new} under two names; save the state dict of the model alone")
        found[new] = tensor
    for name in [name for name in found if name.endswith(".attn.q.bias")]:
        # BEiT's keys have no bias, and timm keeps the other two apart.
        if name.replace(".q.", ".k.") not in found and prefix == "beit.":
            for part in ("q", "v"):
                found[name.replace(".q.bias", f".{part}_bias")] = found.pop(name.replace(".q.", f".{part}."))
    for parts, whole in STACKED:
        for name in [name for name in found if parts[0] in name]:
            own = [name.replace(parts[0], part) for part in parts]
            if lacking := [part for part in own if part not in found]:
                raise FggError(f"lacks {names(lacking)} beside {name}; fetch the file again")
            found[name.replace(parts[0], whole)] = torch.cat([found.pop(part) for part in own])
    return found
