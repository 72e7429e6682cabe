"""Attention on CPUs, by oneDNN: the two products of softmax(Q K^T / sqrt(d)) V as grouped 1 x 1 convolutions.

PyTorch's fused attention computes these small products with MKL, which does not use AVX-512 on non-Intel processors, and
its exponential on a CPU is MKL's, which is slow there too. A 1 x 1 convolution with one group for each image and head is the
same product: queries are places, keys are output channels. oneDNN has a fast kernel for it. On one core of an AMD EPYC
(Zen 5), attention of 101 tokens in 3 heads of width 32 takes 42 us an image instead of 72, and of 197 tokens in 12 heads
of width 64 it takes 0.9 ms instead of 1.5. All other cases (GPU, other processors, few queries, gradients) take PyTorch's
own attention.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

_OPERATORS = torch.ops.mkldnn if torch.backends.mkldnn.is_available() else None
# The operator that torch.compile calls for convolutions on a CPU; it has no gradient.
_CONVOLUTION = getattr(_OPERATORS, "_convolution_pointwise", None)
_X86 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
FEWEST_QUERIES = 48  # below, PyTorch's attention is faster
MOST_SCORES = 2**19  # at once, so that they stay in the processor's cache
SMALLEST_SUM = 2.0**-64  # of a row's weights: smaller ones could have lost weights to underflow


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention with the scale 1 / sqrt(d), heads side by side: (B, T, H e), in the dtype of the values.

    On a CPU, scores, weights and sums are float32 also where queries, keys and values are bfloat16.

    Args:
        q, k, v: floating-point (B, H, T, d), (B, H, S, d) and (B, H, S, e).
    """
    if not suits(q, k, v):
        return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    images, heads, queries, _ = q.shape
    keys, width = k.shape[2], v.shape[3]
    out = v.new_empty(images, queries, heads, width)
    together = max(1, MOST_SCORES // (heads * queries * keys))
    beside = min(heads, max(1, MOST_SCORES // (queries * keys)))
    for image in range(0, images, together):
        for head in range(0, heads, beside):
            part = slice(image, image + together), slice(head, head + beside)
            _attend(q[part], k[part], v[part], out[part[0], :, part[1]])
    return out.flatten(2)


def suits(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether `attention` of these takes oneDNN's products."""
    cpu = _CONVOLUTION is not None and _X86 and q.device.type == "cpu"
    known = q.dtype == k.dtype == v.dtype and v.dtype in (torch.float32, torch.bfloat16)
    gradient = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    return cpu and known and not gradient and len(q) > 0 and q.shape[2] >= FEWEST_QUERIES and k.shape[2] > 1


def _attend(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
    """Attention of images and heads that fit the cache, in float32, into ``out`` (B, T, H, e)."""
    images, heads, queries, depth = q.shape
    groups = images * heads
    scaled = torch.empty(queries, images, heads, depth)
    # Powers of 2 instead of e: PyTorch's exp2 is four times as fast as its exp on an AMD EPYC.
    torch.mul(q.permute(2, 0, 1, 3).float(), depth**-0.5 * math.log2(math.e), out=scaled)
    scaled = scaled.view(queries, groups, depth)
    rows = k.float().contiguous().view(groups, -1, depth)
    columns = v.transpose(2, 3).float().contiguous().view(groups, -1, k.shape[2])
    weights = _product(scaled, rows)
    torch.exp2(weights, out=weights)
    total = weights.sum(-1)
    least, most = (bound.item() for bound in torch.aminmax(total))
    if not (least >= SMALLEST_SUM and most < math.inf):  # only then is the largest score of a row needed
        weights = _product(scaled, rows)
        weights -= weights.amax(-1, keepdim=True)
        torch.exp2(weights, out=weights)
        total = weights.sum(-1)
    mixed = _product(weights, columns)
    mixed /= total[..., None]
    out.copy_(mixed.view(queries, images, heads, -1).transpose(0, 1))


def _product(x: Tensor, rows: Tensor) -> Tensor:
    """X W^T for each of G groups: x (T, G, I), rows W (G, O, I), both float32 and contiguous: (T, G, O)."""
    assert _CONVOLUTION is not None
    places, groups, inner = x.shape
    # Channels last: one image of T places with G I channels.
    image = x.view(1, 1, places, groups * inner).permute(0, 3, 1, 2)
    kernel = rows.view(-1, inner, 1, 1)
    found = _CONVOLUTION(image, kernel, None, [0, 0], [1, 1], [1, 1], groups, "none", [], "")
    return found.permute(0, 2, 3, 1).view(places, groups, -1)
