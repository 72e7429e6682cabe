"""Small random models of every kind that is not timm's plain Vision Transformer, and a slow computation of each.

The slow computation takes one image in float64. It forms every attention itself, row by row, from queries, keys and
values, with rotations and relative positions of its own, so that nothing is read from the model's attention.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from timm.models import beit, eva
from timm.models import vision_transformer as vit
from timm.models import vision_transformer_relpos as relpos
from timm.models.deit import VisionTransformerDistilled
from zoo import CLASSES, WIDTH, make_images, randomise

BASE = {"img_size": 24, "patch_size": 8, "embed_dim": WIDTH, "depth": 3, "num_heads": 3, "num_classes": CLASSES}
ROPE = {"use_rot_pos_emb": True, "num_heads": 2}
FAMILIES = {
    "distilled": (VisionTransformerDistilled, {}),
    "distilled-non-square": (VisionTransformerDistilled, {"img_size": (16, 32), "qk_norm": True}),
    "beit": (beit.Beit, {"use_abs_pos_emb": False, "use_rel_pos_bias": True, "init_values": 0.5}),
    "beit-shared-bias-token-non-square": (
        beit.Beit,
        {"use_shared_rel_pos_bias": True, "global_pool": "token", "img_size": (16, 32), "qkv_bias": False},
    ),
    "beit-swiglu": (beit.Beit, {"use_rel_pos_bias": True, "swiglu_mlp": True, "scale_mlp": True}),
    "eva": (eva.Eva, {"init_values": 0.5}),
    "eva02": (eva.Eva, ROPE | {"swiglu_mlp": True, "scale_mlp": True, "qkv_fused": False, "ref_feat_shape": (4, 4)}),
    "eva02-inner-norm-token": (
        eva.Eva,
        ROPE | {"scale_attn_inner": True, "swiglu_mlp": True, "global_pool": "token", "img_size": (16, 32)},
    ),
    "dinov3": (
        eva.Eva,
        ROPE
        | {"rope_type": "dinov3", "rope_rotate_half": True, "num_reg_tokens": 2, "use_abs_pos_emb": False}
        | {"init_values": 0.5, "use_fc_norm": False, "dynamic_img_size": True, "qk_norm": True},
    ),
    "eva-no-class-mixed": (
        eva.Eva,
        ROPE | {"rope_type": "mixed", "class_token": False, "no_embed_class": True, "use_pre_transformer_norm": True},
    ),
    "eva-post-norm": (eva.Eva, {"use_post_norm": True}),
    "eva-rope-attention": (eva.Eva, ROPE | {"attn_type": "rope", "num_reg_tokens": 1}),
    "relpos-mlp": (relpos.VisionTransformerRelPos, {"rel_pos_dim": 8, "init_values": 0.5}),
    "relpos-bias-class-token": (
        relpos.VisionTransformerRelPos,
        {"rel_pos_type": "bias", "class_token": True, "global_pool": "token", "img_size": (16, 32)},
    ),
    "relpos-shared-post-norm": (
        relpos.VisionTransformerRelPos,
        {"shared_rel_pos": True, "rel_pos_dim": 8, "class_token": True, "block_fn": relpos.ResPostRelPosBlock, "init_values": 0.5},
    ),
    "parallel-things": (vit.VisionTransformer, {"block_fn": vit.ParallelThingsBlock}),
    "parallel-scaling": (vit.VisionTransformer, {"block_fn": vit.ParallelScalingBlock}),
    "post-norm": (vit.VisionTransformer, {"block_fn": vit.ResPostBlock, "reg_tokens": 1}),
    "differential": (vit.VisionTransformer, {"attn_layer": "diff", "num_heads": 2}),
    "differential-parallel": (vit.VisionTransformer, {"block_fn": vit.DiffParallelScalingBlock, "num_heads": 2}),
}  # fmt: skip


def make_family(name: str, seed: int = 1, **changes):
    """A random model of the family, in eval mode, and images for it."""
    kind, options = FAMILIES[name]
    model = randomise(kind(**BASE | options | changes), seed)
    return model, make_images(model, 2)


@dataclass
class Slow:
    """One image's slow computation: what enters and leaves the blocks, and their attentions, which are in the graph."""

    model: object
    tokens: list[torch.Tensor]  # what enters each block, and what leaves the last
    attention: list[list[torch.Tensor]]  # per block and branch, (H, T, T)
    logits: torch.Tensor


def slow_forward(model, image, cut: int | None = None, kept: list[int] | None = None) -> Slow:
    """Run one image (C, H, W), a float64 copy of the model.

    Args:
        cut: a block behind which tokens are taken out of the graph, so that gradients end there.
        kept: the patches that stay, in order; None for all.
    """
    model = copy.deepcopy(model).double().eval().requires_grad_(False)
    rows, columns = model.patch_embed.grid_size
    tall, wide = model.patch_embed.patch_size
    weight, bias = model.patch_embed.proj.weight, model.patch_embed.proj.bias
    patches = []
    for row in range(rows):
        for column in range(columns):
            part = image.double()[:, row * tall : (row + 1) * tall, column * wide : (column + 1) * wide]
            value = (weight * part).sum((1, 2, 3))
            patches.append(value if bias is None else value + bias)
    first = [getattr(model, name, None) for name in ("cls_token", "dist_token", "reg_token")]
    prefix = [row for token in first if token is not None for row in token[0]]
    positions = getattr(model, "pos_embed", None)
    tokens = prefix + patches
    if positions is not None:
        bare = len(tokens) - positions.shape[1]  # tokens at the start that have no position
        tokens = tokens[:bare] + [token + own for token, own in zip(tokens[bare:], positions[0], strict=True)]
    kept = list(range(len(patches))) if kept is None else kept
    tokens = tokens[: len(prefix)] + [tokens[len(prefix) + number] for number in kept]
    x = torch.stack(tokens)
    x = model.norm_pre(x) if hasattr(model, "norm_pre") else x
    x = x.detach().requires_grad_()
    places = [None] * len(prefix) + [divmod(number, columns) for number in kept]
    seen = Slow(model, [x], [], x)
    for layer, block in enumerate(model.blocks):
        x = _block(model, block, layer, x, places, seen)
        if cut == layer:
            x = x.detach().requires_grad_()
        seen.tokens.append(x)
    seen.logits = head(model, x)
    return seen


def head(model, x):
    """Logits (K) of the tokens (T, D) behind the last block."""
    x = model.norm(x)
    if isinstance(model, VisionTransformerDistilled):
        return (model.head(x[0]) + model.head_dist(x[1])) / 2
    pooled = (
        x[0] if model.global_pool == "token" else sum(x[model.num_prefix_tokens :]) / (len(x) - model.num_prefix_tokens)
    )
    return model.head(model.fc_norm(pooled))


def _block(model, block, layer, x, places, seen):
    def attend(attn, y, projected=None):
        own = _attention(model, attn, layer, y, places, projected)
        if not seen.attention or len(seen.attention) <= layer:
            seen.attention.append([])
        seen.attention[layer].append(own[0])
        return own[1]

    if isinstance(block, vit.ParallelThingsBlock):
        x = x + sum(part.ls(attend(part.attn, part.norm(x))) for part in block.attns)
        return x + sum(part(x) for part in block.ffns)
    if isinstance(block, (vit.ParallelScalingBlock, vit.DiffParallelScalingBlock)):
        y = block.in_proj(block.in_norm(x))
        hidden, q, k, v = y.split(block.in_split, -1)
        hidden = hidden if block.mlp_bias is None else hidden + block.mlp_bias
        mixed, hidden = attend(block, None, (q, k, v)), block.mlp_act(hidden)
        if block.out_proj is not None:
            return x + block.ls(block.out_proj(torch.cat([mixed, hidden], -1)))
        return x + block.ls(block.attn_out_proj(mixed) + block.mlp_out_proj(hidden))
    post = (vit.ResPostBlock, relpos.ResPostRelPosBlock, eva.EvaBlockPostNorm)
    if isinstance(block, post):
        x = x + block.norm1(attend(block.attn, x))
        return x + block.norm2(block.mlp(x))
    scale1 = block.ls1 if hasattr(block, "ls1") else lambda y: y if block.gamma_1 is None else block.gamma_1 * y
    scale2 = block.ls2 if hasattr(block, "ls2") else lambda y: y if block.gamma_2 is None else block.gamma_2 * y
    x = x + scale1(attend(block.attn, block.norm1(x)))
    return x + scale2(block.mlp(block.norm2(x)))


def _attention(model, attn, layer, y, places, projected):
    """The matrix (H, T, T) that multiplies the values, and the output (T, D)."""
    if projected is None:
        if getattr(attn, "qkv", None) is not None:
            bias = attn.qkv.bias
            if getattr(attn, "q_bias", None) is not None:
                bias = torch.cat([attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias])
            projected = (y @ attn.qkv.weight.T + (0 if bias is None else bias)).chunk(3, -1)
        else:
            projected = attn.q_proj(y), attn.k_proj(y), attn.v_proj(y)
    differential = hasattr(attn, "lambda_init")
    heads, count = attn.num_heads, attn.num_heads * (2 if differential else 1)
    q, k = (part.reshape(len(part), count, -1).transpose(0, 1) for part in projected[:2])
    v = projected[2].reshape(len(projected[2]), heads, -1).transpose(0, 1)
    q, k = attn.q_norm(q) if hasattr(attn, "q_norm") else q, attn.k_norm(k) if hasattr(attn, "k_norm") else k
    if getattr(model, "rope", None) is not None:
        q, k = (torch.stack([_rotated(model, layer, h, part[h], places) for h in range(count)]) for part in (q, k))
    soft = []
    for h in range(count):
        rows = []
        for i, query in enumerate(q[h]):
            scores = [query @ key / math.sqrt(q.shape[-1]) for key in k[h]]
            scores = [score + _bias(model, attn, h, places, i, j) for j, score in enumerate(scores)]
            weights = torch.stack(scores).exp()
            rows.append(weights / weights.sum())
        soft.append(torch.stack(rows))
    if differential:
        share = attn.lambda_init
        if attn.lambda_a is None:
            share = share + (attn.lambda_q1 @ attn.lambda_k1).exp() - (attn.lambda_q2 @ attn.lambda_k2).exp()
        soft = [soft[2 * h] - share * soft[2 * h + 1] for h in range(heads)]
    matrix = torch.stack(soft)
    mixed = torch.stack([matrix[h] @ v[h] for h in range(heads)], 1)
    if differential:
        mixed = attn.sub_norm(mixed) * (1 - attn.lambda_init)
    mixed = mixed.flatten(1)
    if isinstance(attn, (vit.ParallelScalingBlock, vit.DiffParallelScalingBlock)):
        return matrix, mixed
    mixed = attn.norm(mixed) if isinstance(getattr(attn, "norm", None), torch.nn.Module) else mixed
    return matrix, attn.proj(mixed)


def _rotated(model, layer, h, rows, places):
    """Queries or keys of a head (T, d) with each pair of numbers rotated by its position's angle."""
    return torch.stack(
        [row if place is None else _turn(model, layer, h, row, place) for row, place in zip(rows, places, strict=True)]
    )


def _turn(model, layer, h, row, place):
    size, (tall, wide) = len(row), model.patch_embed.grid_size
    kind = type(model.rope).__name__
    if kind == "RotaryEmbeddingCat":
        bands = [10000.0 ** (-i / (size // 4)) for i in range(size // 4)]
        ratio = (
            (1, 1)
            if model.rope.ref_feat_shape is None
            else (model.rope.ref_feat_shape[0] / tall, model.rope.ref_feat_shape[1] / wide)
        )
        angles = [place[axis] * ratio[axis] * band for axis in (0, 1) for band in bands]
    elif kind == "RotaryEmbeddingDinoV3":
        bands = [100.0 ** (-4 * i / size) for i in range(size // 4)]
        bands = [1 / float(period) for period in model.rope.periods] if hasattr(model.rope, "periods") else bands
        middle = [2 * (place[axis] + 0.5) / length - 1 for axis, length in ((0, tall), (1, wide))]
        angles = [2 * math.pi * at * band for at in middle for band in bands]
    else:
        freqs = model.rope.freqs[:, layer, h]  # mixed: learned for each block and head
        angles = [float(place[0] * down + place[1] * across) for down, across in freqs.T]
    pairs = (
        [(i, i + size // 2) for i in range(size // 2)]
        if getattr(model.blocks[0].attn, "rotate_half", False)
        else [(2 * i, 2 * i + 1) for i in range(size // 2)]
    )
    out = [row[0]] * size
    for (a, b), angle in zip(pairs, angles, strict=True):
        cosine, sine = math.cos(angle), math.sin(angle)
        out[a], out[b] = row[a] * cosine - row[b] * sine, row[b] * cosine + row[a] * sine
    return torch.stack(out)


def _bias(model, attn, h, places, i, j):
    """The bias of the attention from token i to token j."""
    holders = [
        attn,
        getattr(attn, "rel_pos", None),
        getattr(model, "rel_pos_bias", None),
        getattr(model, "shared_rel_pos", None),
    ]
    total = 0.0
    for own in holders:
        if getattr(own, "relative_position_bias_table", None) is not None:
            total = total + own.relative_position_bias_table[_entry(model, places, i, j), h]
        elif isinstance(own, relpos.RelPosMlp) and places[i] is not None and places[j] is not None:
            steps = []
            for a, b, length in zip(places[i], places[j], model.patch_embed.grid_size, strict=True):
                steps.append(math.copysign(math.log(1 + abs(a - b)), a - b) if a != b else 0.0)
                del length
            total = total + own.mlp(torch.tensor(steps, dtype=torch.float64))[h]
    return total


def _entry(model, places, i, j):
    rows, columns = model.patch_embed.grid_size
    entries = (2 * rows - 1) * (2 * columns - 1) + 3
    a, b = places[i], places[j]
    if a is None and b is None:
        return entries - 1
    if a is None or b is None:
        return entries - 3 if a is None else entries - 2
    return (a[0] - b[0] + rows - 1) * (2 * columns - 1) + a[1] - b[1] + columns - 1
