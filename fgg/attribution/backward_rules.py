"""Rules that change the backward pass of a model and leave its forward values as they are.

Each rule is a context manager that hooks modules. A hook keeps a module's output and gives it the gradient of a
surrogate. With such gradients, input x gradient equals the relevance of a propagation rule. Enter a rule before
`fgg.models.capture.at_rest` or inside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from timm.layers import Attention, GluMlp, Mlp, PatchEmbed, RmsNorm, SwiGLU
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from fgg.errors import FggError
from fgg.models.capture import at_rest, attention_module, unfused
from fgg.models.fast_products import joined_mlp
from fgg.models.onednn_linear import linear
from fgg.models.zero_shot import ZeroShotHead

Hook = Callable[[Any, tuple[Any, ...], Tensor], Tensor | None]
NORMS = (nn.LayerNorm, nn.RMSNorm, RmsNorm)
GATED = (GluMlp, SwiGLU)


def with_backward_of(value: Tensor, surrogate: Tensor) -> Tensor:
    """A tensor with exactly the values of the first and the gradient of the second; all of one shape."""
    return value.detach() + (surrogate - surrogate.detach()).to(value.dtype)


@contextlib.contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """`at_rest` with gradients, also within torch.no_grad and torch.inference_mode."""
    with at_rest(model), torch.inference_mode(False), torch.enable_grad():
        yield


@contextlib.contextmanager
def taken_apart(model: VisionTransformer) -> Iterator[None]:
    """Inside the block, MLPs that `fgg.models.fast_products` has joined run module by module.

    A joined MLP calls no hooks of its modules. `fast_products` joins none whose modules have hooks already.
    """
    mlps = [block.mlp for block in model.blocks if hasattr(block, "mlp")]
    own = [(mlp, mlp.forward) for mlp in mlps if joined_mlp(mlp)]
    for mlp, _ in own:
        del mlp.forward
    try:
        yield
    finally:
        for mlp, forward in own:
            mlp.forward = forward


@contextlib.contextmanager
def constant_norms(model: VisionTransformer) -> Iterator[None]:
    """Inside the block, norms are linear: their deviation, or root mean square, counts as a constant.

    A zero-shot head divides by the length of the embedding, which counts as a constant too.
    """
    norms = [module for module in model.modules() if isinstance(module, NORMS)]
    heads = [module for module in model.modules() if isinstance(module, ZeroShotHead)]
    with _hooked(model, norms, _linear_norm), _hooked(model, heads, _linear_head):
        yield


@contextlib.contextmanager
def linear_activations(model: VisionTransformer) -> Iterator[None]:
    """Inside the block, an activation a(x) is x times the constant a(x) / x."""
    with _hooked(model, [block.mlp.act for block in model.blocks], _linear_activation):
        yield


@contextlib.contextmanager
def constant_attention(model: VisionTransformer) -> Iterator[None]:
    """Inside the block, attention weights are constants, so no gradient passes the softmax."""
    with contextlib.ExitStack() as stack:
        drops = []
        for block in model.blocks:
            attention = attention_module(block)
            stack.enter_context(unfused(attention))
            drops.append(attention.attn_drop)
        stack.enter_context(_hooked(model, drops, lambda _module, _inputs, output: output.detach()))
        yield


@contextlib.contextmanager
def halved_attention(model: VisionTransformer) -> Iterator[None]:
    """Inside the block, the factors of query x key and of attention x value get half the gradient each.

    Both factors of a product would get all its relevance; the halves share it equally. The fused kernel may stay.
    """
    factors = [norm for block in model.blocks for norm in (block.attn.q_norm, block.attn.k_norm)]
    with _hooked(model, factors, _halve), contextlib.ExitStack() as stack:
        for block in model.blocks:
            # What enters the projection is the product of attention and value.
            before = block.attn.proj.register_forward_pre_hook(lambda _module, inputs: (_half(inputs[0]),))
            stack.callback(before.remove)
        yield


@contextlib.contextmanager
def halved_gates(model: VisionTransformer) -> Iterator[None]:
    """Inside the block, the factors of a gated MLP (GluMlp, SwiGLU) get half the gradient each."""
    # The dropout behind the product does nothing at rest, but a hook can reach it.
    with _hooked(model, [block.mlp.drop1 for block in model.blocks if isinstance(block.mlp, GATED)], _halve):
        yield


@contextlib.contextmanager
def gamma_rule(model: VisionTransformer, layers: float, projection: float) -> Iterator[None]:
    """Inside the block, linear layers and the patch projection follow the gamma rule; 0 is the plain gradient.

    An output z > 0 passes on its relevance with 1 + gamma times the weight for positive contributions, an output
    z < 0 for negative ones. Inputs of both signs are allowed. Source: the generalised rule of Andéol et al. 2021,
    Learning Domain Invariant Representations by Joint Wasserstein Distance Minimization.
    """
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)] if layers else []
    found = [module for module in model.patch_embed.modules() if isinstance(module, nn.Conv2d)] if projection else []
    with _hooked(model, linears, partial(_gamma, layers)), _hooked(model, found, partial(_gamma, projection)):
        yield


def check_blocks(model: VisionTransformer, method: str) -> None:
    """Raise FggError unless all blocks are timm's standard Block with Attention and the head does not attend."""
    if getattr(model, "attn_pool", None) is not None:
        raise undefined(method, "a model that pools by attention")
    for block in model.blocks:
        for part, kind in ((block, Block), (getattr(block, "attn", None), Attention)):
            if not isinstance(part, kind):
                raise undefined(method, f"blocks of type {type(block).__name__} with {type(part).__name__}")


def check_rules(model: VisionTransformer, method: str, pixels: bool) -> None:
    """Raise FggError if a part of the model has no rule; with ``pixels``, the embedding of the patches counts."""
    check_blocks(model, method)
    norms = [model.norm_pre, model.norm, model.fc_norm]
    for block in model.blocks:
        attn, mlp = block.attn, block.mlp
        if getattr(attn, "gate", None) is not None:
            raise undefined(method, "gated attention")
        if not isinstance(mlp, (Mlp, *GATED)):
            raise undefined(method, f"MLPs of type {type(mlp).__name__}")
        if getattr(mlp.act, "inplace", False):
            raise undefined(method, f"activations of type {type(mlp.act).__name__} that overwrite their input")
        if mlp.act.forward(torch.zeros(1)).any():
            raise undefined(method, f"activations of type {type(mlp.act).__name__}, which are not 0 at 0")
        norms += [block.norm1, block.norm2, attn.q_norm, attn.k_norm, getattr(attn, "norm", None), mlp.norm]
    if pixels:
        if type(model.patch_embed) is not PatchEmbed:
            raise undefined(method, f"the pixels of a {type(model.patch_embed).__name__}", "set its option layers")
        norms.append(model.patch_embed.norm)
    for norm in norms:
        if norm is not None and not isinstance(norm, (nn.Identity, *NORMS)):
            raise undefined(method, f"norms of type {type(norm).__name__}")


def undefined(method: str, what: str, remedy: str = "leave it out of baselines") -> FggError:
    """The error that a method does not know a part of a model."""
    return FggError(f"{method} is not defined for {what}; {remedy}")


@contextlib.contextmanager
def _hooked(model: VisionTransformer, modules: Iterable[Any], hook: Hook) -> Iterator[None]:
    with taken_apart(model), contextlib.ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(partial(_where_needed, hook)).remove)
        yield


def _where_needed(hook: Hook, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
    return hook(module, inputs, output) if output.requires_grad else None


def _half(x: Tensor) -> Tensor:
    return with_backward_of(x, 0.5 * x) if x.requires_grad else x


def _halve(_module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    return _half(output)


def _linear_norm(norm: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    x = inputs[0].to(torch.promote_types(inputs[0].dtype, torch.float32))  # norms are inaccurate in half precision
    places = tuple(range(-len(norm.normalized_shape), 0))
    if isinstance(norm, nn.LayerNorm):
        x = x - x.mean(places, keepdim=True)
    epsilon = torch.finfo(x.dtype).eps if norm.eps is None else norm.eps
    scaled = x * torch.rsqrt(x.detach().square().mean(places, keepdim=True) + epsilon)
    return with_backward_of(output, scaled if norm.weight is None else scaled * norm.weight)


def _linear_head(head: ZeroShotHead, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    image = head.projection(inputs[0])
    length = image.detach().norm(dim=-1, keepdim=True).clamp(min=1e-12)  # the floor of functional.normalize
    return with_backward_of(
        output, head.temperature * functional.linear((image / length).to(head.text.dtype), head.text)
    )


def _linear_activation(act: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    x, numbers = inputs[0], torch.finfo(inputs[0].dtype)
    zero = x.abs() < numbers.tiny
    step = x.new_full((1,), numbers.eps)
    slope = (act.forward(step) / step).detach()  # the limit of a(x) / x at 0
    return with_backward_of(output, x * torch.where(zero, slope, (output / x.masked_fill(zero, 1)).detach()))


def _gamma(gamma: float, layer: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    x, weight = inputs[0], layer.weight
    if isinstance(layer, nn.Conv2d):
        own = (layer.stride, layer.padding, layer.dilation, layer.groups)
        product = lambda value, factor: functional.conv2d(value, factor, None, *own)  # noqa: E731
        bias = 0 if layer.bias is None else layer.bias[:, None, None]
    else:
        product, bias = linear, 0 if layer.bias is None else layer.bias
    rising = product(x * (x >= 0), weight.clamp(min=0)) + product(x * (x < 0), weight.clamp(max=0))
    z = output.detach()
    up = rising.detach() + (bias.clamp(min=0) if isinstance(bias, Tensor) else 0)
    # z is the sum of what raises it and what lowers it, so neither sum below can vanish unless z does.
    whole = torch.where(z > 0, z + gamma * up, z + gamma * (z - up))
    share = torch.where(z == 0, 0, z / whole.masked_fill(z == 0, 1))
    return with_backward_of(output, share * (output + gamma * torch.where(z > 0, rising, output - rising)))
