"""Matrix products of linear layers on CPUs, by oneDNN.

PyTorch uses MKL for float32 products, which does not use AVX-512 on non-Intel processors. oneDNN, which is also part of
PyTorch, is twice as fast there. All other cases (GPU, other precisions, PyTorch without oneDNN) are unchanged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn import functional

_OPERATORS = torch.ops.mkldnn if torch.backends.mkldnn.is_available() else None
# The operator that torch.compile calls for linear layers on a CPU; it has no gradient.
_PRODUCT = getattr(_OPERATORS, "_linear_pointwise", None)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """X W^T + b for x (..., I), weight (O, I), bias (O,): (..., O); with ``gelu``, its exact GELU.

    Neither weight nor bias gets a gradient.
    """
    suits = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and x.numel() > 0
    if _PRODUCT is None or not suits or torch.is_autocast_enabled("cpu"):
        y = functional.linear(x, weight, bias)
    elif x.requires_grad and torch.is_grad_enabled():
        y = _Product.apply(x, weight, bias)
    else:
        return _PRODUCT(x, weight, bias, "gelu" if gelu else "none", [], "none" if gelu else "")
    return functional.gelu(y) if gelu else y


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


@contextlib.contextmanager
def fast_products(model: nn.Module) -> Iterator[None]:
    """Inside the block, the model's linear layers use `linear`, and their parameters get no gradient."""
    changed = [(module, forward) for module in model.modules() if (forward := _forward(module)) is not None]
    for module, forward in changed:
        module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module, _ in changed:
            del module.forward


def _forward(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """The faster forward of a module; None if there is none, or if the module's forward has been replaced already."""
    if _PRODUCT is None or "forward" in vars(module):
        return None
    if type(module) is nn.Linear:
        return lambda x: linear(x, module.weight, module.bias)
    if type(module) is Mlp and _plain(module):
        return partial(_mlp, module)
    return None


def _plain(mlp: Mlp) -> bool:
    """Whether an MLP is linear, exact GELU, linear, with nothing in between and no hook that would be bypassed."""
    parts = (mlp.fc1, mlp.act, mlp.norm, mlp.fc2)
    kinds = (nn.Linear, nn.GELU, nn.Identity, nn.Linear)
    exact = all(type(part) is kind for part, kind in zip(parts, kinds, strict=True)) and mlp.act.approximate == "none"
    return exact and not any(part._forward_hooks or part._forward_pre_hooks for part in (*parts, mlp.drop1, mlp.drop2))


def _mlp(mlp: Mlp, x: Tensor) -> Tensor:
    """The forward of an MLP in eval mode, where dropout does nothing."""
    return linear(linear(x, mlp.fc1.weight, mlp.fc1.bias, gelu=True), mlp.fc2.weight, mlp.fc2.bias)
