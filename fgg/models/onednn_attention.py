"""Attention on CPUs, softmax(Q K^T / sqrt(d)) V, with powers of 2 instead of e and, where they are faster, oneDNN's products.

PyTorch's fused attention computes its small products with MKL, which does not use AVX-512 on non-Intel processors
(`fgg.models.onednn_products`), and its exponential on a CPU is MKL's, which is slow there too. On one core of an AMD EPYC
(Zen 5), attention of 101 tokens in 3 heads of width 32 takes 31 us an image instead of 64, and of 197 tokens in 12 heads
of width 64 it takes 0.65 ms instead of 1.4; with AVX2 alone, 57 us and 1.33 ms. All other cases (GPU, other processors, few
queries, gradients) take PyTorch's own attention.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from fgg.models.onednn_products import onednn_products

_X86 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
FEWEST_QUERIES = 48  # below, PyTorch's attention is faster
MOST_SCORES = 2**19  # at once, so that they stay in the processor's cache
VECTORS = 64  # numbers that PyTorch's loops process at once, or a multiple
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
    beside = _even(heads, MOST_SCORES // (queries * keys))
    together = _even(images, MOST_SCORES // (beside * queries * keys)) if beside == heads else 1
    with onednn_products():
        for image in range(0, images, together):
            for head in range(0, heads, beside):
                part = slice(image, image + together), slice(head, head + beside)
                _attend(q[part], k[part], v[part], out[part[0], :, part[1]])
    return out.flatten(2)


def _even(number: int, most: int) -> int:
    """The size of equal parts of at most ``most`` each, at least one."""
    parts = -(-number // max(1, most))
    return -(-number // parts)


def suits(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether `attention` of these is not PyTorch's own."""
    known = q.dtype == k.dtype == v.dtype and v.dtype in (torch.float32, torch.bfloat16)
    gradient = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    large = len(q) > 0 and q.shape[2] >= FEWEST_QUERIES and k.shape[2] > 1
    cpu = q.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()
    return cpu and _X86 and known and not gradient and large


def _attend(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
    """Attention of images and heads that fit the cache, in float32, into ``out`` (B, T, H, e)."""
    # Powers of 2 instead of e: PyTorch's exp2 is four times as fast as its exp on an AMD EPYC.
    scaled = torch.empty(q.shape, dtype=torch.float32)
    torch.mul(q.float(), q.shape[-1] ** -0.5 * math.log2(math.e), out=scaled)
    queries, rows, columns = (x.float().contiguous().flatten(0, 1) for x in (scaled, k, v))
    # The last numbers of a tensor that fill no whole vector are computed by another function, with other last bits.
    number = len(queries) * queries.shape[1] * rows.shape[1]
    whole = torch.empty(-(-number // VECTORS) * VECTORS, dtype=torch.float32)
    whole[number:] = 0
    weights = whole[:number].view(len(queries), queries.shape[1], rows.shape[1])
    torch.bmm(queries, rows.mT, out=weights)
    whole.exp2_()
    total = weights.sum(-1)
    least, most = (bound.item() for bound in torch.aminmax(total))
    if not (least >= SMALLEST_SUM and most < math.inf):  # only then is the largest score of a row needed
        torch.bmm(queries, rows.mT, out=weights)
        weights -= weights.amax(-1, keepdim=True)
        whole.exp2_()
        total = weights.sum(-1)
    mixed = torch.bmm(weights, columns).div_(total[..., None])
    out.copy_(mixed.unflatten(0, q.shape[:2]).transpose(1, 2))
