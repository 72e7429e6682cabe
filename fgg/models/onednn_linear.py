"""Matrix products of linear layers on CPUs, by oneDNN, in float32 or in bfloat16.

PyTorch uses MKL for float32 products, which does not use AVX-512 on non-Intel processors. oneDNN, which is also part of
PyTorch, is twice as fast there. All other cases (GPU, other precisions, PyTorch without oneDNN) are unchanged.

Inside `bf16_products`, the products of the blocks' linear layers are computed in bfloat16: their inputs, weights, biases and
results are rounded to its eight bits. Sums inside the products, norms, softmax, residual stream, patch embedding and head
stay in float32, and so does everything that has a gradient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_OPERATORS = torch.ops.mkldnn if torch.backends.mkldnn.is_available() else None
# The operator that torch.compile calls for linear layers on a CPU; it has no gradient.
_PRODUCT = getattr(_OPERATORS, "_linear_pointwise", None)
# The same with a sum, which is added before the result is written.
_SUM = getattr(_PRODUCT, "binary", None)
# Brings a weight into the layout of the product's kernel, which `_PRODUCT` else does at each call.
_REORDERED = getattr(_OPERATORS, "_reorder_linear_weight", None)
# Weights in another form, by place, shape and version; each entry keeps its original, so that no place is reused.
Kept = dict[tuple[Any, ...], tuple[Tensor, Tensor]]
_rounded: Kept | None = None  # in bfloat16, inside `bf16_products`
_reordered: Kept | None = None  # in the kernel's layout, inside `reordered_weights`


@contextlib.contextmanager
def reordered_weights(kept: Kept) -> Iterator[None]:
    """Inside the block, weights are brought into the layout of oneDNN's kernel once: 3 to 5 % of a pass on an AMD EPYC.

    Args:
        kept: where they are kept, empty at first; use it for one model whose weights do not change meanwhile.
    """
    global _reordered
    before, _reordered = _reordered, kept
    try:
        yield
    finally:
        _reordered = before


@contextlib.contextmanager
def bf16_products() -> Iterator[None]:
    """Inside the block, `linear` with ``low=True`` computes float32 products in bfloat16 on a CPU."""
    global _rounded
    before, _rounded = _rounded, {} if _rounded is None else _rounded
    try:
        yield
    finally:
        _rounded = before


def available() -> bool:
    """Whether this PyTorch has oneDNN's products."""
    return _PRODUCT is not None


def low_precision() -> bool:
    """Whether `bf16_products` applies here."""
    return _rounded is not None


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gelu: bool = False,
    low: bool = False,
    keep: bool = False,
    plus: Tensor | None = None,
) -> Tensor:
    """X W^T + b for x (..., I), weight (O, I), bias (O,): (..., O); with ``gelu``, its exact GELU.

    Neither weight nor bias gets a gradient.

    Args:
        plus: (..., O), added to the result; not with ``gelu`` or ``keep``.
        low: whether `bf16_products` applies.
        keep: leave a product in bfloat16 as it is, for another product or for `attention`.
    """
    graph = x.requires_grad and torch.is_grad_enabled()
    if low and _rounded is not None and weight.dtype == torch.float32 and x.device.type == "cpu" and not graph:
        y = _linear(x.bfloat16(), _bf16(weight), None if bias is None else _bf16(bias), gelu)
        y = y if keep else y.float()
        return y if plus is None else y.add_(plus)
    return _linear(x, weight, bias, gelu, plus)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False, plus: Tensor | None = None) -> Tensor:
    suits = x.device.type == "cpu" and x.dtype == weight.dtype and x.numel() > 0 and not torch.compiler.is_compiling()
    if _PRODUCT is None or not suits or not _fast(x.dtype) or torch.is_autocast_enabled("cpu"):
        y = functional.linear(x, weight, bias)
    elif x.requires_grad and torch.is_grad_enabled():
        y = _Product.apply(x, weight, bias)
    else:
        weight = _in_layout(weight, x.numel() // max(1, x.shape[-1]))
        if plus is not None and _SUM is not None and plus.dtype == x.dtype:
            return _SUM(x, plus, weight, bias, "add")
        y = _PRODUCT(x, weight, bias, "gelu" if gelu else "none", [], "none" if gelu else "")
        return y if plus is None else y + plus
    y = functional.gelu(y) if gelu else y
    return y if plus is None else y + plus


def _fast(dtype: torch.dtype) -> bool:
    """Whether oneDNN's products are used; for a model in bfloat16 outside `bf16_products` they are PyTorch's."""
    return dtype == torch.float32 or (dtype == torch.bfloat16 and _rounded is not None and has_bf16())


def has_bf16() -> bool:
    """Whether this CPU has instructions for products in bfloat16."""
    amx, avx512 = (getattr(torch.cpu, f"_is_{name}_supported", bool) for name in ("amx_tile", "avx512_bf16"))
    return bool(amx() or avx512())


def _bf16(weight: Tensor) -> Tensor:
    """A parameter in bfloat16, converted once for each block of `bf16_products`."""
    assert _rounded is not None
    key = _key(weight)
    if key not in _rounded:
        _rounded[key] = weight, weight.detach().bfloat16()
    return _rounded[key][1]


def _in_layout(weight: Tensor, rows: int) -> Tensor:
    """A weight in the kernel's layout inside `reordered_weights`; else as it is."""
    if _reordered is None or _REORDERED is None:
        return weight
    key = _key(weight)
    if key not in _reordered:
        _reordered[key] = weight, _REORDERED(weight.detach(), rows)
    return _reordered[key][1]


def _key(weight: Tensor) -> tuple[Any, ...]:
    # Tensors that are made in inference mode have no version; here they are copies in bfloat16, which nobody changes.
    version = None if weight.is_inference() else weight._version
    return weight.data_ptr(), tuple(weight.shape), weight.stride(), version, weight.dtype


class _Product(torch.autograd.Function):
    """The product with a gradient for x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return linear(gradients[0], weight.t().contiguous()), None, None
