"""Timm's pre-norm block as a dozen operators instead of a dozen modules, with residual sums inside the products.

A small model's pass on a CPU spends a tenth of its time on calls of modules and on separate sums. `JoinedBlock` takes the place
of a block's forward where nobody could see the difference: standard modules, no gradient, no hook.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import Attention, DropPath, LayerNorm, Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from fgg.models.onednn_attention import attention
from fgg.models.onednn_linear import linear

ALL: Any = nn.modules.module  # where hooks of all modules are kept
DROPPING = (nn.Identity, nn.Dropout, DropPath)  # what does nothing in eval mode


class JoinedBlock:
    """The forward of a block whose modules are `joinable`; it takes timm's own forward where that could be told apart."""

    def __init__(self, block: Block) -> None:
        attn, mlp = block.attn, block.mlp
        self._block: Any = block
        self._inside = tuple(block.modules())[1:]
        self._proj, self._fc1, self._fc2 = attn.proj, mlp.fc1, mlp.fc2

    def __call__(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """See timm's Block."""
        block = self._block
        if attn_mask is not None or is_causal or not self.unseen(x):
            return type(block).forward(block, x, attn_mask, is_causal)
        return self.rest(x, attention(*heads(block.attn, projected(block.attn, normed(block.norm1, x)))))

    def unseen(self, x: Tensor) -> bool:
        """Whether the block is at rest, without a gradient, and nobody sees the calls of its modules."""
        if (x.requires_grad and torch.is_grad_enabled()) or self._block.training or not self._block.attn.fused_attn:
            return False
        return not any(hooked(module) for module in self._inside)

    def rest(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The rest of the block, given what its heads have mixed (B, T, H d) for the tokens x."""
        norm, block = self._block.attn.norm, self._block
        mixed = mixed if type(norm) is nn.Identity else norm(mixed)
        x = linear(mixed, self._proj.weight, self._proj.bias, low=True, plus=x)
        hidden = linear(normed(block.norm2, x), self._fc1.weight, self._fc1.bias, gelu=True, low=True, keep=True)
        return linear(hidden, self._fc2.weight, self._fc2.bias, low=True, plus=x)


def projected(attn: Any, x: Tensor) -> Tensor:
    """Queries, keys and values of an attention (B, T, 3 H d), in bfloat16 inside `bf16_products` if no norm follows."""
    bare = type(attn.q_norm) is type(attn.k_norm) is nn.Identity
    return linear(x, attn.qkv.weight, attn.qkv.bias, low=True, keep=bare)


def heads(attn: Any, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B, H, T, d) from the fused projection (B, T, 3 H d)."""
    q, k, v = qkv.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return attn.q_norm(q), attn.k_norm(k), v


def normed(norm: Any, x: Tensor) -> Tensor:
    """A norm of x, without a module's call for a plain layer norm."""
    if type(norm) is nn.LayerNorm or (type(norm) is LayerNorm and not norm._fast_norm):
        return torch.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return norm(x)


def after_attention(block: Any, x: Tensor, mixed: Tensor) -> Tensor:
    """The rest of a pre-norm block, given what its heads have mixed (B, T, H d) for the tokens x."""
    own = vars(block).get("forward")
    if isinstance(own, JoinedBlock) and own.unseen(x):
        return own.rest(x, mixed)
    x = x + block.ls1(block.attn.proj(block.attn.norm(mixed)))
    return x + block.ls2(block.mlp(block.norm2(x)))


def joinable(block: Block) -> bool:
    """Whether a block consists of what `JoinedBlock` replaces, with no forward that somebody has set."""
    attn, mlp = block.attn, block.mlp
    return (
        type(attn) is Attention
        and getattr(attn, "gate", None) is None
        and type(attn.qkv) is type(attn.proj) is nn.Linear
        and type(mlp) is Mlp
        and plain_mlp(mlp)
        and all(type(scale) is nn.Identity for scale in (block.ls1, block.ls2))
        and all(type(module) in DROPPING for module in (attn.proj_drop, block.drop_path1, block.drop_path2))
        and not any("forward" in vars(module) for module in block.modules())
    )


def plain_mlp(mlp: Mlp) -> bool:
    """Whether an MLP is linear, exact GELU, linear, with nothing in between, and nobody sees or has replaced its parts."""
    parts = (mlp.fc1, mlp.act, mlp.norm, mlp.fc2)
    kinds = (nn.Linear, nn.GELU, nn.Identity, nn.Linear)
    exact = all(type(part) is kind for part, kind in zip(parts, kinds, strict=True)) and mlp.act.approximate == "none"
    drops = (mlp.drop1, mlp.drop2)
    return (
        exact
        and all(type(drop) in DROPPING for drop in drops)
        and not any(hooked(part) or "forward" in vars(part) for part in (*parts, *drops))
    )


def hooked(module: nn.Module) -> bool:
    """Whether somebody sees the calls of a module."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or ALL._global_forward_hooks or ALL._global_forward_pre_hooks
    )
