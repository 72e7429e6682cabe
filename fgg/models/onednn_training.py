"""Training on CPUs by oneDNN: linear layers and attention in float32 whose weights get gradients.

PyTorch's own float32 products are MKL's, which does not use AVX-512 on non-Intel processors; oneDNN, which is also part of
PyTorch, is twice as fast there (`fgg.models.onednn_linear`, which serves models whose weights get no gradient). With Y = X W^T
+ b and G the gradient of Y, those of X, W and b are G W, G^T X and the column sums of G, so that all three products are
oneDNN's. All other cases (GPU, other precisions, autocast, PyTorch without oneDNN) are unchanged.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fgg.models.onednn_attention import MOST_SCORES, SMALLEST_SUM

_OPERATORS = torch.ops.mkldnn if torch.backends.mkldnn.is_available() else None
# The operator that torch.compile calls for linear layers on a CPU; it has no gradient.
_PRODUCT = getattr(_OPERATORS, "_linear_pointwise", None)


@contextlib.contextmanager
def fast_training(model: nn.Module) -> Iterator[None]:
    """Inside the block, the model's linear layers use `linear` and its attentions `attention`.

    Modules whose forward has been replaced already are left as they are.
    """
    found = ((module, _forward(module)) for module in model.modules() if "forward" not in vars(module))
    changed = [(module, forward) for module, forward in found if forward is not None]
    for module, forward in changed:
        module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module, _ in changed:
            del module.forward


def _forward(module: nn.Module) -> Callable[..., Tensor] | None:
    """The faster forward of a module; None if there is none."""
    if type(module) is nn.Linear:
        return lambda x: linear(x, module.weight, module.bias)
    if type(module) is Attention and module.gate is None:
        return partial(_attention_forward, module)
    return None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X W^T + b for x (..., I), weight (O, I), bias (O,): (..., O), with gradients for all three."""
    if not _fast(x, weight) or x.ndim < 2:
        return functional.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)


def _fast(*tensors: Tensor) -> bool:
    """Whether the products of these tensors are oneDNN's."""
    known = all(x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0 for x in tensors)
    return _PRODUCT is not None and known and not torch.is_autocast_enabled("cpu")


def _times(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X W^T + b by oneDNN; the operator copies x if its rows are not contiguous, but takes any strides of the weight."""
    assert _PRODUCT is not None
    return _PRODUCT(x, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _times(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        outer, inner = weight.shape
        rows, g = x.reshape(-1, inner), gradient.reshape(-1, outer)
        dw = None
        if of_weight:
            # The first operand is the one that is copied, so it is the smaller one.
            dw = _times(g.t(), rows.t()) if outer <= inner else _times(rows.t(), g.t()).t()
        dx = _times(g, weight.t()).view(x.shape) if of_x else None
        return dx, dw, g.sum(0) if of_bias else None


def attention(qkv: Tensor, heads: int) -> Tensor:
    """Softmax attention with the scale 1 / sqrt(d), heads side by side: (B, T, H d) of qkv (B, T, 3 H d), with a gradient.

    For the gradient G of the result O = P V, with P the softmax of the scores, that of the scores is
    P * (G V^T - rowsum(G * O)).
    """
    if not _fast(qkv):
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return _Attention.apply(qkv, heads)


def _attention_forward(
    module: Attention, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """The forward of timm's attention, by `attention` where queries and keys are plain and nothing else is asked for."""
    plain = type(module.q_norm) is nn.Identity and type(module.k_norm) is nn.Identity
    dropping = module.training and module.attn_drop.p > 0
    if attn_mask is not None or is_causal or dropping or not plain or not module.fused_attn:
        return type(module).forward(module, x, attn_mask, is_causal)
    return module.proj_drop(module.proj(module.norm(attention(module.qkv(x), module.num_heads))))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int) -> Tensor:
        images, tokens, width = qkv.shape
        parted = qkv.view(images, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
        out = torch.empty(images, tokens, heads, width // 3 // heads).transpose(1, 2)
        kept = [found for part in _parts(out) for found in _attend(parted[:, part], out[part])]
        ctx.save_for_backward(qkv, out, *kept)
        return out.transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        qkv, out, *kept = ctx.saved_tensors
        images, heads, tokens, depth = out.shape
        g = gradient.reshape(images, tokens, heads, depth).transpose(1, 2)
        of_qkv = torch.empty(images, tokens, 3, heads, depth)
        grads = of_qkv.permute(2, 0, 3, 1, 4)
        for index, part in enumerate(_parts(out)):
            _attend_backward(*kept[5 * index : 5 * index + 5], out[part], g[part], grads[:, part])
        return of_qkv.view(qkv.shape), None


def _parts(out: Tensor) -> list[slice]:
    """Images whose scores fit the cache together, for a result (B, H, T, d)."""
    images, heads, tokens, _ = out.shape
    together = max(1, MOST_SCORES // (heads * tokens * tokens))
    return [slice(first, first + together) for first in range(0, images, together)]


def _attend(parted: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Attention of queries, keys and values (3, B, H, T, d) into ``out`` (B, H, T, d).

    Returns:
        Scaled queries, keys and values (B H, T, d), the weights (B H, T, T) before they are divided by their sums over the
        keys, and these sums (B H, T, 1).
    """
    images, heads, tokens, depth = out.shape
    # Powers of 2 instead of e: PyTorch's exp2 is four times as fast as its exp on an AMD EPYC.
    q = torch.mul(parted[0], depth**-0.5 * math.log2(math.e)).reshape(-1, tokens, depth)
    k, v = (x.reshape(-1, tokens, depth) for x in parted[1:])
    weights = torch.bmm(q, k.mT)
    torch.exp2(weights, out=weights)
    total = weights.sum(-1, keepdim=True)
    least, most = (bound.item() for bound in torch.aminmax(total))
    if not SMALLEST_SUM <= least <= most <= 1 / SMALLEST_SUM:  # only then is the largest score of a row needed
        torch.bmm(q, k.mT, out=weights)
        weights -= weights.amax(-1, keepdim=True)
        torch.exp2(weights, out=weights)
        total = weights.sum(-1, keepdim=True)
    torch.div(torch.bmm(weights, v).view(out.shape), total.view(images, heads, tokens, 1), out=out)
    return q, k, v, weights, total


def _attend_backward(
    q: Tensor, k: Tensor, v: Tensor, weights: Tensor, total: Tensor, out: Tensor, g: Tensor, grads: Tensor
) -> None:
    """Gradients of queries, keys and values into ``grads`` (3, B, H, T, d), for the gradient g of ``out`` (B, H, T, d)."""
    divided = g / total.view(*out.shape[:3], 1)
    along = (divided * out).sum(-1).view(total.shape)
    divided = divided.reshape(v.shape)
    scores = torch.bmm(divided, v.mT).sub_(along).mul_(weights)
    torch.mul(torch.bmm(scores, k).view(out.shape), out.shape[-1] ** -0.5, out=grads[0])
    torch.mul(torch.bmm(scores.mT, q).view(out.shape), math.log(2), out=grads[1])  # q holds 1 / log 2
    grads[2].copy_(torch.bmm(weights.mT, divided).view(out.shape))
