"""LRP x gradient (Chefer, Gur and Wolf 2021, Transformer Interpretability Beyond Attention Visualization).

Relevance is propagated to the attention weights by the rules of the authors' code, which needs no graph: linear layers
pass it on by positive contributions, sums and products by share. Norms, activations and the softmax leave it as it is.
Unlike that code, sums are taken per image, so that an image's map does not depend on the others in its batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from fgg import gating
from fgg.attribution.backward_rules import check_rules, differentiable, taken_apart
from fgg.attribution.registry import method
from fgg.errors import FggError
from fgg.models.architectures import VisionTransformerDistilled
from fgg.models.capture import unfused, usable
from fgg.models.onednn_linear import linear
from fgg.models.vit import at_patches, check_layers, readout
from fgg.models.zero_shot import ZeroShotHead

FLOOR = 1e-9  # the authors' guard against division by zero
Seen = dict[str, Tensor]


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """The ratio a / b of tensors that broadcast, 0 where b is 0."""
    below = b + FLOOR
    return torch.where(b == 0, 0, a / torch.where(below == 0, FLOOR, below))


def through_linear(relevance: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The alpha = 1 rule: relevance (..., O) of a linear layer's output to that of its input x (..., I).

    An input gets relevance in proportion to its positive contribution; weight is (O, I), the bias gets none.
    """
    parts = ((x.clamp(min=0), weight.clamp(min=0)), (x.clamp(max=0), weight.clamp(max=0)))
    share = ratio(relevance, sum(linear(own, factor) for own, factor in parts))  # type: ignore[arg-type]
    (up, rising), (down, falling) = parts
    return up * linear(share, rising.t().contiguous()) + down * linear(share, falling.t().contiguous())


def through_sum(relevance: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance (B, T, D) of a + b, shared by element, then scaled so that each image's two totals are |a| : |b|."""
    share = ratio(relevance, a + b)
    parts = (a * share, b * share)
    totals = [part.sum((1, 2), keepdim=True) for part in parts]
    both = totals[0].abs() + totals[1].abs()
    whole = relevance.sum((1, 2), keepdim=True)
    one, other = (
        part * ratio(ratio(total.abs(), both) * whole, total) for part, total in zip(parts, totals, strict=True)
    )
    return one, other


def through_product(relevance: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance (..., T, S) of the matrix product of a (..., T, R) and b (..., R, S): half of it to each factor."""
    share = ratio(relevance, a @ b)
    return a * (share @ b.mT) / 2, b * (a.mT @ share) / 2


def through_copies(x: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Relevance of x that was used twice: the sum of both; an input of 0 gets none."""
    return x * (ratio(one, x) + ratio(other, x))


def through_block(block: Block, seen: Seen, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance (B, T, D) of a block's output to that of its input (B, T, D) and of its attention (B, H, T, T)."""
    attn, mlp = block.attn, block.mlp
    skipped, added = through_sum(relevance, seen["middle"], seen["mlp"])
    added = through_linear(added, seen["fc2"], mlp.fc2.weight)
    added = through_linear(added, seen["fc1"], mlp.fc1.weight)
    relevance = through_copies(seen["middle"], skipped, added)

    skipped, added = through_sum(relevance, seen["input"], seen["attended"])
    added = through_linear(added, seen["proj"], attn.proj.weight)
    added = added.unflatten(-1, (attn.num_heads, attn.head_dim)).transpose(1, 2)
    value = seen["qkv_out"].unflatten(-1, (3, attn.num_heads, attn.head_dim))[:, :, 2].transpose(1, 2)
    weights, to_value = through_product(added, seen["attention"], value)
    to_query, to_key = through_product(weights, seen["query"], seen["key"].mT)
    parts = torch.stack((to_query, to_key.mT, to_value), 2).permute(0, 3, 2, 1, 4).flatten(2)
    added = through_linear(parts, seen["qkv"], attn.qkv.weight)
    return through_copies(seen["input"], skipped, added), weights


def through_head(model: VisionTransformer, tokens: Tensor, target: Tensor) -> Tensor:
    """Relevance 1 of the target's logit to the final norm's output tokens (B, T, D), in their shape.

    The pooling passes relevance on in proportion to contributions; the authors pool the class token only.
    """
    tokens = tokens.detach().requires_grad_()
    pooled = model.pool(tokens)
    features = model.fc_norm(pooled).detach()
    if isinstance(model.head, ZeroShotHead):
        image = model.head.projection(features)
        relevance = functional.one_hot(target, len(model.head.text)).to(image.dtype)
        # The division by the length passes relevance on as it is, like a norm.
        relevance = through_linear(relevance, functional.normalize(image, dim=-1), model.head.text.to(image.dtype))
        relevance = through_linear(relevance, features, model.head.projection.weight)
    else:
        relevance = functional.one_hot(target, model.head.out_features).to(features.dtype)
        relevance = through_linear(relevance, features, model.head.weight)
    return (tokens * torch.autograd.grad(pooled, tokens, ratio(relevance, pooled.detach()))[0]).detach()


def check(model: VisionTransformer, start_layer: int, gates: Mapping[int, Tensor]) -> None:
    """Raise FggError for a model without rules, a first layer beyond the depth, or a gate before it."""
    check_rules(model, "chefer_lrp", pixels=False)
    for block in model.blocks:
        if not isinstance(block.mlp, Mlp):
            raise FggError(
                f"chefer_lrp is not defined for MLPs of type {type(block.mlp).__name__}; leave it out of baselines"
            )
    if isinstance(model, VisionTransformerDistilled):
        raise FggError(
            "chefer_lrp is not defined for a VisionTransformerDistilled, whose logits are the mean of two heads"
        )
    if not isinstance(model.head, (nn.Linear, ZeroShotHead)):
        raise FggError(f"chefer_lrp is not defined for a head of type {type(model.head).__name__}; see num_classes")
    check_layers(model, (start_layer,))
    if early := [layer for layer in gates if layer < start_layer]:
        raise FggError(f"chefer_lrp: the gate at layer {early[0]} lies before start_layer {start_layer}")


@method(
    title="LRP × gradient",
    citation="Chefer, Gur and Wolf 2021, Transformer Interpretability Beyond Attention Visualization",
    forward_passes=2,
    backward_passes=2,
    assumes="the positive part of relevance times gradient at the attention says how tokens pass on the class",
)
def chefer_lrp(
    model: VisionTransformer, images: Tensor, target: Tensor, gates: Mapping[int, Tensor], start_layer: int = 0
) -> Tensor:
    """LRP x gradient, accumulated through the blocks: (B, N).

    C_l = mean over heads of max(relevance of the attention x its gradient, 0), and the product of all I + C_l from
    the last block to the first is read where the head reads. One backward pass is the gradient's, one the relevance's.

    Args:
        start_layer: the first block of the product, from 0.

    Raises:
        FggError: no such block, a gate before it, or the model has a part that the method has no rule for.
    """
    check(model, start_layer, gates)
    first = start_layer
    seen: list[Seen] = [{} for _ in model.blocks[first:]]
    tokens: list[Tensor] = []
    # The rules divide by sums that may be near zero, which bfloat16 cannot follow.
    with taken_apart(model), torch.autocast(images.device.type, enabled=False), contextlib.ExitStack() as stack:
        for block, own in zip(model.blocks[first:], seen, strict=True):
            stack.enter_context(_watched(block, own))
        stack.callback(model.norm.register_forward_hook(lambda _m, _i, output: tokens.append(output.detach())).remove)
        stack.enter_context(differentiable(model))
        logits = model(usable(images))
        weights = [own["attention"] for own in seen]
        gradients = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), weights)
        relevance = through_head(model, tokens[0], target)
        cams: list[Tensor] = []
        with torch.no_grad():
            for block, own, gradient in zip(
                reversed(model.blocks[first:]), reversed(seen), gradients[::-1], strict=True
            ):
                relevance, found = through_block(block, own, relevance)
                cams.insert(0, (found * gradient).clamp_(min=0).mean(1))
    row = readout(model, cams[0])
    return at_patches(model, gating.relevance(cams, row, {layer - first: gate for layer, gate in gates.items()}))


@contextlib.contextmanager
def _watched(block: Any, seen: Seen):
    """Inside the block, keep what the rules need; the graph begins at the first attention that is watched."""

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: seen.__setitem__(name, output.detach())

    def keep_input(name: str) -> Callable[..., None]:
        return lambda _module, inputs: seen.__setitem__(name, inputs[0].detach())

    def keep_attention(_module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        seen["attention"] = output if output.requires_grad else output.detach().requires_grad_()
        return seen["attention"]

    attn, mlp = block.attn, block.mlp
    with contextlib.ExitStack() as stack:
        stack.enter_context(unfused(attn))
        stack.callback(attn.attn_drop.register_forward_hook(keep_attention).remove)
        inputs = {"input": block, "middle": block.norm2, "qkv": attn.qkv, "proj": attn.proj, "fc1": mlp.fc1}
        for name, module in {**inputs, "fc2": mlp.fc2}.items():
            stack.callback(module.register_forward_pre_hook(keep_input(name)).remove)
        outputs = {"attended": block.drop_path1, "mlp": block.drop_path2, "query": attn.q_norm, "key": attn.k_norm}
        for name, module in {**outputs, "qkv_out": attn.qkv}.items():
            stack.callback(module.register_forward_hook(keep(name)).remove)
        yield
