"""Matrix products of linear layers on CPUs, by oneDNN, in float32 or in bfloat16.

PyTorch uses MKL for float32 products, which does not use AVX-512 on non-Intel processors. oneDNN, which is also part of
PyTorch, is twice as fast there. All other cases (GPU, other precisions, PyTorch without oneDNN) are unchanged.

Inside `bf16_products`, the products of the blocks' linear layers are computed in bfloat16: their inputs, weights, biases and
results are rounded to its eight bits. Sums inside the products, norms, softmax, residual stream, patch embedding and head
stay in float32, and so does everything that has a gradient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from timm.layers import Attention, DropPath, Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from fgg.models.onednn_attention import attention

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


@contextlib.contextmanager
def fast_products(model: nn.Module) -> Iterator[None]:
    """Inside the block, the model's linear layers use `linear` and its attentions `attention`; no parameter gets a gradient."""
    inside = {module for block in getattr(model, "blocks", ()) for module in block.modules()}
    found = ((module, _forward(module, module in inside)) for module in model.modules())
    changed = [(module, forward) for module, forward in found if forward is not None]
    for module, forward in changed:
        module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module, _ in changed:
            del module.forward


def _forward(module: nn.Module, low: bool) -> Callable[..., Tensor] | None:
    """The faster forward of a module; None if there is none, or if the module's forward has been replaced already.

    Args:
        low: whether `bf16_products` applies to the module.
    """
    if _PRODUCT is None or "forward" in vars(module):
        return None
    if type(module) is nn.Linear:
        return lambda x: linear(x, module.weight, module.bias, low=low)
    if type(module) is Mlp and _plain(module):
        return partial(_mlp, module, low)
    if type(module) is Attention and getattr(module, "gate", None) is None:
        return partial(_attention, module, low)
    if type(module) is Block and _standard(module):
        return partial(_block, module)
    return None


def _plain(mlp: Mlp) -> bool:
    """Whether an MLP is linear, exact GELU, linear, with nothing in between and no hook that would be bypassed."""
    parts = (mlp.fc1, mlp.act, mlp.norm, mlp.fc2)
    kinds = (nn.Linear, nn.GELU, nn.Identity, nn.Linear)
    exact = all(type(part) is kind for part, kind in zip(parts, kinds, strict=True)) and mlp.act.approximate == "none"
    return exact and not any(_hooked(part) for part in (*parts, mlp.drop1, mlp.drop2))


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _standard(block: Block) -> bool:
    """Whether a block consists of what `after_attention` replaces, with no forward that somebody has set."""
    attn, mlp = block.attn, block.mlp
    nothing = (block.ls1, block.ls2, block.drop_path1, block.drop_path2)
    return (
        type(attn) is Attention
        and getattr(attn, "gate", None) is None
        and type(attn.qkv) is type(attn.proj) is nn.Linear
        and type(mlp) is Mlp
        and _plain(mlp)
        and all(type(module) in (nn.Identity, DropPath) for module in nothing)
        and not any("forward" in vars(module) for module in block.modules())
    )


def _block(block: Block, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """The forward of timm's block, with the residual sums inside the products where nobody looks between."""
    if attn_mask is not None or is_causal or not block.attn.fused_attn or not _unseen(block, x):
        return type(block).forward(block, x, attn_mask, is_causal)
    return after_attention(block, x, _mixed(block.attn, True, block.norm1(x)))


def _unseen(block: Any, x: Tensor) -> bool:
    """Whether a block that `fast_products` has changed is at rest, without a gradient, and nobody sees its modules' calls."""
    if getattr(vars(block).get("forward"), "func", None) is not _block or block.training:
        return False
    attn, mlp = block.attn, block.mlp
    called = (attn, attn.qkv, attn.attn_drop, attn.proj, attn.proj_drop, mlp, block.ls1, block.ls2)
    inside = (mlp.fc1, mlp.act, mlp.drop1, mlp.norm, mlp.fc2, mlp.drop2, block.drop_path1, block.drop_path2)
    graph = x.requires_grad and torch.is_grad_enabled()
    return not graph and not any(_hooked(module) for module in (*called, *inside))


def after_attention(block: Any, x: Tensor, mixed: Tensor) -> Tensor:
    """The rest of a pre-norm block, given what its heads have mixed (B, T, H d) for the tokens x."""
    attn, mlp = block.attn, block.mlp
    if not _unseen(block, x):
        x = x + block.ls1(attn.proj(attn.norm(mixed)))
        return x + block.ls2(mlp(block.norm2(x)))
    x = linear(attn.norm(mixed), attn.proj.weight, attn.proj.bias, low=True, plus=x)
    hidden = linear(block.norm2(x), mlp.fc1.weight, mlp.fc1.bias, gelu=True, low=True, keep=True)
    return linear(hidden, mlp.fc2.weight, mlp.fc2.bias, low=True, plus=x)


def _attention(
    module: Attention, low: bool, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """The forward of timm's attention, by oneDNN where neither the attention matrix nor a gradient is asked for."""
    graph = torch.is_grad_enabled() and x.requires_grad
    if graph or attn_mask is not None or is_causal or module.training or not module.fused_attn:
        return type(module).forward(module, x, attn_mask, is_causal)
    return module.proj(module.norm(_mixed(module, low, x)))


def _mixed(module: Attention, low: bool, x: Tensor) -> Tensor:
    """What the heads of an attention mix, (B, T, H d), for its normed input."""
    if low and type(module.qkv) is nn.Linear and not _hooked(module.qkv):
        qkv = linear(x, module.qkv.weight, module.qkv.bias, low=True, keep=type(module.q_norm) is nn.Identity)
    else:
        qkv = module.qkv(x)
    q, k, v = qkv.unflatten(-1, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return attention(module.q_norm(q), module.k_norm(k), v)


def _mlp(mlp: Mlp, low: bool, x: Tensor) -> Tensor:
    """The forward of an MLP in eval mode, where dropout does nothing."""
    hidden = linear(x, mlp.fc1.weight, mlp.fc1.bias, gelu=True, low=low, keep=True)
    return linear(hidden, mlp.fc2.weight, mlp.fc2.bias, low=low)
