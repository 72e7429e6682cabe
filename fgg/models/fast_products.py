"""A model whose linear layers, attentions and blocks are computed by oneDNN on a CPU, for as long as a block of code runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

from timm.layers import Attention, Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, is_grad_enabled, nn

from fgg.models.joined_block import JoinedBlock, heads, hooked, joinable, plain_mlp, projected
from fgg.models.onednn_attention import attention
from fgg.models.onednn_linear import available, linear


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
    if not available() or "forward" in vars(module):
        return None
    if type(module) is nn.Linear:
        return partial(_linear, module, low)
    if type(module) is Mlp and plain_mlp(module):
        return partial(_mlp, module, low)
    if type(module) is Attention and getattr(module, "gate", None) is None:
        return partial(_attention, module, low and type(module.qkv) is nn.Linear and "forward" not in vars(module.qkv))
    if type(module) is Block and joinable(module):
        return JoinedBlock(module)
    return None


def set_by_others(module: nn.Module) -> bool:
    """Whether somebody else than `fast_products` has set the forward of a module."""
    forward = vars(module).get("forward")
    own = isinstance(forward, JoinedBlock) or (isinstance(forward, partial) and forward.func in OWN)
    return forward is not None and not own


def joined_mlp(module: nn.Module) -> bool:
    """Whether an MLP's forward is the one of `fast_products`, which calls none of its modules."""
    forward = vars(module).get("forward")
    return isinstance(forward, partial) and forward.func is _mlp


def _attention(
    module: Attention, low: bool, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """The forward of timm's attention, by oneDNN where neither the attention matrix nor a gradient is asked for."""
    graph = is_grad_enabled() and x.requires_grad
    if graph or attn_mask is not None or is_causal or module.training or not module.fused_attn:
        return type(module).forward(module, x, attn_mask, is_causal)
    return module.proj_drop(module.proj(module.norm(_mixed(module, low, x))))


def _mixed(module: Attention, low: bool, x: Tensor) -> Tensor:
    """What the heads of an attention mix, (B, T, H d), for its normed input."""
    qkv = projected(module, x) if low and not hooked(module.qkv) else module.qkv(x)
    return attention(*heads(module, qkv))


def _linear(module: nn.Linear, low: bool, x: Tensor) -> Tensor:
    return linear(x, module.weight, module.bias, low=low)


def _mlp(mlp: Mlp, low: bool, x: Tensor) -> Tensor:
    """The forward of an MLP in eval mode, where dropout does nothing."""
    hidden = linear(x, mlp.fc1.weight, mlp.fc1.bias, gelu=True, low=low, keep=True)
    return linear(hidden, mlp.fc2.weight, mlp.fc2.bias, low=low)


OWN = (_attention, _linear, _mlp)
