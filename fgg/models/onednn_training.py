"""Training on CPUs by oneDNN: linear layers in float32 whose weights get gradients.

PyTorch's own float32 products are MKL's, which does not use AVX-512 on non-Intel processors; oneDNN, which is also part of
PyTorch, is twice as fast there (`fgg.models.onednn_linear`, which serves models whose weights get no gradient). With
Y = X W^T + b and G the gradient of Y, the gradients of X, W and b are G W, G^T X and the column sums of G, so that all three
products are oneDNN's. All other cases (GPU, other precisions, autocast, PyTorch without oneDNN) are unchanged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_OPERATORS = torch.ops.mkldnn if torch.backends.mkldnn.is_available() else None
# The operator that torch.compile calls for linear layers on a CPU; it has no gradient.
_PRODUCT = getattr(_OPERATORS, "_linear_pointwise", None)
_memory: Any = torch.utils.deterministic


@contextlib.contextmanager
def fast_training(model: nn.Module, products: bool) -> Iterator[None]:
    """Inside the block, new memory is not filled, and with ``products`` the model's linear layers use `linear`.

    With `torch.use_deterministic_algorithms`, PyTorch fills new memory with NaN, so that reading it before writing would
    give the same result each time. Nothing does so here, and filling takes 3 % of the time of a step. Layers whose forward
    has been replaced already are left as they are.
    """
    layers = model.modules() if products else ()
    changed = [module for module in layers if type(module) is nn.Linear and "forward" not in vars(module)]
    filled = _memory.fill_uninitialized_memory
    _memory.fill_uninitialized_memory = False
    for module in changed:
        module.forward = partial(_forward, module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        _memory.fill_uninitialized_memory = filled
        for module in changed:
            del module.forward


def _forward(module: nn.Linear, x: Tensor) -> Tensor:
    return linear(x, module.weight, module.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X W^T + b for x (..., I), weight (O, I), bias (O,): (..., O), with gradients for all three, once differentiable."""
    known = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and x.ndim > 1
    if _PRODUCT is None or not known or not x.numel() or torch.is_autocast_enabled("cpu"):
        return functional.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        outputs, inputs = weight.shape
        rows, g = x.reshape(-1, inputs), gradient.reshape(-1, outputs)
        of_x = product(g, weight.t()).view(x.shape) if for_x else None
        return of_x, of_weight(rows, g) if for_weight else None, g.sum(0) if for_bias else None


def of_weight(rows: Tensor, gradient: Tensor) -> Tensor:
    """The gradient G^T X of W (O, I) by oneDNN, for X (n, I) and G (n, O)."""
    if gradient.shape[1] > rows.shape[1]:  # the first operand, which is transposed in memory, is the smaller one
        return product(rows.t(), gradient.t()).t()
    return product(gradient.t(), rows.t())


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X W^T + b by oneDNN, which copies X unless its rows are contiguous, and takes W with any strides."""
    assert _PRODUCT is not None
    return _PRODUCT(x, weight, bias, "none", [], "")


def available() -> bool:
    """Whether PyTorch has oneDNN's product."""
    return _PRODUCT is not None
