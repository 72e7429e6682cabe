"""Training on CPUs with faster products of linear layers, for models that `fgg.models.halves` does not divide.

The products are those of `fgg.models.training_products`: either oneDNN's, or those that have the bytes of PyTorch's. All other
cases (GPU, other precisions, autocast) are unchanged.
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

from fgg.models.training_products import ONEDNN, PYTORCH, Products, available, like_pytorch

_memory: Any = torch.utils.deterministic


@contextlib.contextmanager
def fast_training(model: nn.Module, onednn: bool) -> Iterator[None]:
    """Inside the block, new memory is not filled, and the model's linear layers use `linear`, which is once differentiable.

    With `torch.use_deterministic_algorithms`, PyTorch fills new memory with NaN, so that reading it before writing would
    give the same result each time. Nothing does so here, and filling takes 3 % of the time of a step. Layers whose forward
    has been replaced already are left as they are.

    Args:
        onednn: whether the products are oneDNN's, with its order of sums, instead of PyTorch's.
    """
    changed = [module for module in model.modules() if type(module) is nn.Linear and "forward" not in vars(module)]
    filled = _memory.fill_uninitialized_memory
    _memory.fill_uninitialized_memory = False
    for module in changed:
        module.forward = partial(_forward, module, onednn)  # type: ignore[method-assign]
    try:
        yield
    finally:
        _memory.fill_uninitialized_memory = filled
        for module in changed:
            del module.forward


def _forward(module: nn.Linear, onednn: bool, x: Tensor) -> Tensor:
    return linear(x, module.weight, module.bias, onednn)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, onednn: bool = True) -> Tensor:
    """X W^T + b for x (..., I), weight (O, I), bias (O,): (..., O), with gradients for all three, once differentiable."""
    products = _products(x, weight, bias, onednn)
    return functional.linear(x, weight, bias) if products is PYTORCH else _Linear.apply(x, weight, bias, products)


def _products(x: Tensor, weight: Tensor, bias: Tensor | None, onednn: bool) -> Products:
    known = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and x.ndim > 1
    if not available() or not known or not x.numel() or torch.is_autocast_enabled("cpu"):
        return PYTORCH
    if onednn:
        return ONEDNN
    if not weight.is_contiguous():
        return PYTORCH
    rows = x.numel() // x.shape[-1]
    return like_pytorch(rows, rows, x.shape[-1], len(weight), bias is not None, torch.get_num_threads())


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, products: Products) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.products = products
        return products.forward(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        outputs, inputs = weight.shape
        rows, g = x.reshape(-1, inputs), gradient.reshape(-1, outputs)
        of_x = ctx.products.of_input(g, weight).view(x.shape) if for_x else None
        return of_x, ctx.products.of_weight(rows, g) if for_weight else None, g.sum(0) if for_bias else None, None
