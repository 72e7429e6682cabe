"""The kinds of Vision Transformers that fgg explains, and how the parts of each are called one by one.

All have one grid of patches and attention over all tokens. They differ in how positions enter: added to the tokens, as a
bias of the attention (BEiT, relative positions), or as rotations of queries and keys (EVA-02, DINOv3).

Symbols: B images, T tokens, N patches, D width, H heads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from timm.layers import Attention, AttentionRope, DiffAttention
from timm.models import beit, eva, vision_transformer, vision_transformer_relpos
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fgg.errors import FggError

# The most special kind comes first. fgg calls these methods one by one, so a class that replaces one is another kind.
KINDS = (
    VisionTransformerDistilled,
    VisionTransformer,
    beit.Beit,
    eva.Eva,
    vision_transformer_relpos.VisionTransformerRelPos,
)
STEPS = ("forward", "forward_features", "forward_head", "pool", "_pos_embed")
# Kinds whose positions are biases for all patches, which timm does not drop in training.
FIXED_PATCHES = (beit.Beit, vision_transformer_relpos.VisionTransformerRelPos)
# Attention whose weights pass through a dropout, where they can be read; the parallel blocks hold it themselves.
DIFFERENCES = (DiffAttention, vision_transformer.DiffParallelScalingBlock)
ATTENTIONS = (
    *(Attention, AttentionRope, beit.Attention, eva.EvaAttention, vision_transformer_relpos.RelPosAttention),
    *(vision_transformer.ParallelScalingBlock, *DIFFERENCES),
)
# Blocks whose norm1 stands before the attention.
PRE_NORM = (vision_transformer.Block, beit.Block, eva.EvaBlock, vision_transformer_relpos.RelPosBlock)
# Why other nets cannot be explained: parts of the names of their modules in timm, or of their classes.
OTHERS = (
    (("swin", "maxxvit", "nest", "davit", "hiera", "mvitv2", "vitdet", "_sam", "gcvit", "twins", "crossvit", "volo"),
     "its attention stays within windows or mixes grids, so no single attention matrix covers all patches"),
    (("pvt", "coat", "edgenext", "efficientformer", "tiny_vit", "levit", "mobilevit", "fastvit", "nextvit", "visformer"),
     "its grid of tokens changes from stage to stage, so no single attention matrix covers all patches"),
    (("xcit",), "its attention mixes channels, not patches"),
    (("cait",), "its class token enters only in the last blocks, with an attention of its own"),
    (("mlp_mixer", "metaformer", "convmixer"), "it has no attention over patches"),
    (("naflexvit",), "its number of patches differs between images; load the weights in the vit_ architecture of the same size"),
)  # fmt: skip


def refusal(model: Any) -> str:
    """Why a model cannot be explained: a part of a sentence; empty if it can."""
    kind = next((kind for kind in KINDS if isinstance(model, kind)), None)
    if kind is not None:
        other = [name for name in STEPS if getattr(type(model), name, None) is not getattr(kind, name, None)]
        if other:
            return f"a {type(model).__name__}, which replaces {other[0]} of {kind.__name__}; fgg would misread it"
        if kind is VisionTransformerDistilled and model.no_embed_class:
            return "a VisionTransformerDistilled with no_embed_class, which timm itself cannot run"
        return ""
    name, place = type(model).__name__, type(model).__module__.rpartition(".")[2]
    for parts, reason in OTHERS:
        if type(model).__module__.startswith("timm.") and any(part in place for part in parts):
            return f"a {name}: {reason}"
    known = ", ".join(kind.__name__ for kind in KINDS)
    return f"a {name}; fgg explains timm's VisionTransformers with one attention over all patches: {known}"


def attention_modules(block: nn.Module) -> list[Any]:
    """The modules of a block whose attention can be read at their dropout: one, or several that stand side by side.

    Raises:
        FggError: there is none of a kind that is known.
    """
    if isinstance(block, vision_transformer.ParallelThingsBlock):
        found = [part.attn for part in block.attns]
    else:
        found = [getattr(block, "attn", block)]
    for module in found:
        if not isinstance(module, ATTENTIONS) or not isinstance(getattr(module, "attn_drop", None), nn.Module):
            what = "" if module is block else f" with {type(module).__name__}"
            raise FggError(f"attention cannot be captured in a block of type {type(block).__name__}{what}")
    return found


def mixing(module: Any, weights: Tensor) -> Tensor:
    """The matrix that multiplies the values, (B, H, T, T), from what passes the dropout of the attention.

    Differential attention is the difference of two softmaxes (Ye et al. 2025, Differential Transformer); its weights come
    as pairs, (B, 2 H, T, T).
    """
    if not isinstance(module, DIFFERENCES):
        return weights
    pairs = weights.unflatten(1, (-1, 2))
    return pairs[:, :, 0] - module._compute_lambda().detach().to(weights) * pairs[:, :, 1]


def slope_of_mixing(module: Any, gradient: Tensor) -> Tensor:
    """The gradient of `mixing`'s matrix, (B, H, T, T), from that of what passes the dropout."""
    return gradient.unflatten(1, (-1, 2))[:, :, 0] if isinstance(module, DIFFERENCES) else gradient


def embedded(model: Any, patches: Tensor) -> Tensor:
    """The tokens that enter the first block, (B, T, D), from what the patch embedding gives."""
    if isinstance(model, VisionTransformer):
        return model.norm_pre(model._pos_embed(patches))
    if isinstance(model, eva.Eva):
        return model.norm_pre(model._pos_embed(patches)[0])
    if model.cls_token is not None:
        patches = torch.cat([model.cls_token.expand(len(patches), -1, -1), patches], dim=1)
    positions = getattr(model, "pos_embed", None)
    return patches if positions is None else patches + positions


def after(model: Any, tokens: Tensor, first: int = 0, kept: Tensor | None = None) -> Tensor:
    """The tokens (B, T, D) after all blocks from ``first`` on, for a model at rest.

    Args:
        kept: int64 (B, K), the patches that the tokens behind the prefix stand for; None if all N are there.
    """
    with _positions(model, kept) as given:
        for block, own in zip(list(model.blocks)[first:], given[first:], strict=True):
            tokens = block(tokens, **own)
    return tokens


def logits_of(model: Any, tokens: Tensor) -> Tensor:
    """Logits (B, K) of the tokens (B, T, D) after the last block."""
    return model.forward_head(model.norm(tokens))


@contextlib.contextmanager
def _positions(model: Any, kept: Tensor | None) -> Iterator[Sequence[dict[str, Any]]]:
    """What each block is called with beside its tokens; inside, the blocks' own biases are those of the kept patches."""
    depth = len(model.blocks)
    if isinstance(model, eva.Eva):
        yield _rotations(model, kept)
        return
    holders: list[tuple[Any, str]] = []
    given: dict[str, Any] = {}
    if isinstance(model, beit.Beit):
        given["shared_rel_pos_bias"] = (
            None if model.rel_pos_bias is None else _chosen(model.rel_pos_bias(), kept, model)
        )
        holders = [(block.attn, "_get_rel_pos_bias") for block in model.blocks if block.attn.window_size is not None]
    elif isinstance(model, vision_transformer_relpos.VisionTransformerRelPos):
        shared = model.shared_rel_pos
        given["shared_rel_pos"] = None if shared is None else _chosen(shared.get_bias(), kept, model)
        holders = [(block.attn.rel_pos, "get_bias") for block in model.blocks if block.attn.rel_pos is not None]
    with contextlib.ExitStack() as stack:
        for holder, name in holders if kept is not None else ():
            bias = _chosen(getattr(holder, name)(), kept, model)
            setattr(holder, name, lambda bias=bias: bias)
            stack.callback(delattr, holder, name)
        yield [given] * depth


def _rotations(model: Any, kept: Tensor | None) -> list[dict[str, Any]]:
    """The rotary positions of each block, for the model's own grid."""
    rows, columns = model.patch_embed.grid_size
    shape = (1, rows, columns, model.embed_dim) if model.dynamic_img_size else (1, rows * columns, model.embed_dim)
    rope = model._pos_embed(next(model.parameters()).new_zeros(shape))[1]
    depth = len(model.blocks)
    if rope is None:
        return [{"rope": None}] * depth
    if model.rope_mixed:  # (depth, heads, N, d)
        each = rope if kept is None else rope[:, :, kept].transpose(1, 2)
        return [{"rope": each[layer]} for layer in range(depth)]
    if kept is not None:  # (N, d), to one for each head
        rope = rope[kept][:, None]
    return [{"rope": rope}] * depth


def _chosen(bias: Tensor, kept: Tensor | None, model: Any) -> Tensor:
    """A bias (1, H, T, T) or (H, T, T) at the prefix and the kept patches: (B, H, 1 + K, 1 + K); unchanged without ``kept``."""
    if kept is None:
        return bias
    prefix = model.num_prefix_tokens
    first = torch.arange(prefix, device=kept.device).expand(len(kept), -1)
    index = torch.cat([first, kept + prefix], dim=1)
    whole = bias[0] if bias.ndim == 4 else bias
    return whole[:, index[:, :, None], index[:, None, :]].transpose(0, 1)
