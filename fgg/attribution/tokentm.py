"""TokenTM (Wu et al. 2024, Token Transformation Matters).

Attention tells how tokens are mixed. TokenTM also weights how attention and the MLP transform them, by the ratio of
their lengths and the correlation of their directions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor
from torch.nn.functional import cosine_similarity

from fgg.attribution.registry import method
from fgg.errors import FggError
from fgg.gating import through_gate
from fgg.models.capture import Captured, capture
from fgg.models.vit import at_patches, readout


def token_weight(before: Tensor, after: Tensor) -> Tensor:
    """Length ratio times the softmax over tokens of the cosine similarity: two tensors (..., T, D) to (..., T)."""
    ratio = after.norm(dim=-1) / before.norm(dim=-1)
    return ratio * cosine_similarity(before, after, dim=-1).softmax(dim=-1)


def attention_weight(block: Block, x: Tensor) -> Tensor:
    """Weight of each token's passage through each head, (B, H, T), for block inputs x (B, T, D).

    A token passes a head through its value and output matrices. Norms and biases are the same for all tokens
    and are left out.
    """
    attn = block.attn
    value = attn.qkv.weight[2 * attn.attn_dim :].unflatten(0, (attn.num_heads, attn.head_dim))
    out = attn.proj.weight.unflatten(1, (attn.num_heads, attn.head_dim))
    passed = block.ls1(torch.einsum("btc,hdc,ehd->bhte", x, value, out))
    return token_weight(x[:, None].expand_as(passed), passed)


def relevance(
    cams: list[Tensor],
    mlp_weights: list[Tensor],
    lengths: Tensor,
    readout: Tensor,
    gates: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """TokenTM relevance of the tokens.

    The contribution map starts at diag(lengths); in each block C <- C + M C for the attention and
    C <- C + diag(f) C for the MLP. Only the row that the head reads is computed, from the last block to the first.

    Args:
        cams: per block M = mean_h max(A * dz/dA, 0) diag(w_h), (B, T, T).
        mlp_weights: per block f, (B, T).
        lengths: lengths of the tokens that enter the first block, (B, T).
        readout: (B, T).
        gates: layer -> (B, N), multiply the patch columns of that block's M.

    Returns:
        (B, T).
    """
    row = readout
    for layer in reversed(range(len(cams))):
        row = row * (1 + mlp_weights[layer])
        row = row + through_gate(torch.einsum("bt,bts->bs", row, cams[layer]), (gates or {}).get(layer))
    return row * lengths


@method(
    title="TokenTM",
    citation="Wu et al. 2024, Token Transformation Matters",
    forward_passes=1,
    backward_passes=1,
    own_pass=True,
    assumes="a token counts for as much as its length and its direction are kept on the way through the blocks",
)
def tokentm(
    model: VisionTransformer, images: Tensor, target: Tensor | None, gates: Mapping[int, Tensor]
) -> tuple[Tensor, Captured]:
    """TokenTM of a batch: the relevance of the patches, (B, N), and what was captured.

    Raises:
        FggError: the model has blocks other than timm's standard one; TokenTM is not defined for them.
    """
    for block in model.blocks:
        if not (isinstance(block, Block) and isinstance(block.attn, Attention)):
            raise FggError(
                f"tokentm is not defined for blocks of type {type(block).__name__}; leave it out of baselines"
            )
        if block.attn.gate is not None:
            raise FggError("tokentm is not defined for gated attention; leave it out of baselines")
    lengths: list[Tensor] = []
    middles: list[Tensor] = []
    weights: list[Tensor] = []

    def weigh(block: Block, x: Tensor) -> Tensor:
        if not lengths:
            lengths.append(x.norm(dim=-1))
        return attention_weight(block, x)

    def read_mlp(block: Block):
        return lambda _module, _inputs, output: weights.append(token_weight(middles.pop(), block.ls2(output).detach()))

    with contextlib.ExitStack() as hooks:
        for block in model.blocks:
            before = block.norm2.register_forward_pre_hook(lambda _module, inputs: middles.append(inputs[0].detach()))
            hooks.callback(before.remove)
            hooks.callback(block.mlp.register_forward_hook(read_mlp(block)).remove)
        seen = capture(model, images, target, cams=True, weigh=weigh)
    row = readout(model, seen.cams[0])
    return at_patches(model, relevance(seen.cams, weights, lengths[0], row, gates)), seen
