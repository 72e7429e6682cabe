"""LeGrad (Bousselham et al. 2025): sensitivity of the score to the attention of each block."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fgg.attribution.backward_rules import differentiable, undefined
from fgg.attribution.gradients import rest_of
from fgg.attribution.registry import method
from fgg.errors import FggError
from fgg.models.architectures import attention_modules, slope_of_mixing
from fgg.models.capture import attention_module, unfused, usable
from fgg.models.vit import at_patches


@method(
    title="LeGrad",
    citation="Bousselham et al. 2025, LeGrad: An Explainability Method for Vision Transformers via Feature Formation Sensitivity",
    forward_passes=2,
    backward_passes=1,
    assumes="the head can read the output of every block, not only the last",
)
def legrad(model: VisionTransformer, images: Tensor, target: Tensor, start_layer: int = 0) -> Tensor:
    """Mean over blocks, heads and queries of max(ds/dA, 0), at the patches: (B, N).

    A is a block's attention and s the target's score if the model's final norm and head read that block's output.
    Only the way through the same block counts. All blocks together cost less than one backward pass. The authors
    scale each map to the range from 0 to 1. That changes neither the order of the patches nor the ratios of their
    differences, but it would lose the patches' shares, so it is left out.

    Args:
        start_layer: the first block that counts, from 0; negative numbers count from the last block.

    Raises:
        FggError: no such block, or the model has blocks with several attentions, or pools by attention.
    """
    _check(model)
    depth = len(model.blocks)
    first = start_layer + depth if start_layer < 0 else start_layer
    if not 0 <= first < depth:
        raise FggError(f"legrad: start_layer is {start_layer}, but the model has {depth} blocks")
    head, maps = rest_of(model, depth - 1), []
    attention: list[Tensor] = []
    modules = [attention_module(block) for block in model.blocks]
    places = {id(block): module for block, module in zip(model.blocks, modules, strict=True)}

    def cut(_block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        return (inputs[0].detach(),)

    def keep(_drop: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        attention.append(output.detach().requires_grad_())
        return attention[0]

    def read(block: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        score = head(output).gather(1, target[:, None]).sum()
        gradient = slope_of_mixing(places[id(block)], torch.autograd.grad(score, attention.pop())[0])
        maps.append(gradient.clamp_(min=0).mean((1, 2)))
        return output.detach()

    with differentiable(model), contextlib.ExitStack() as stack:
        for block, module in zip(model.blocks[first:], modules[first:], strict=True):
            stack.enter_context(unfused(module))
            register: tuple[tuple[Callable[..., Any], Callable[..., Any]], ...] = (
                (block.register_forward_pre_hook, cut),
                (module.attn_drop.register_forward_hook, keep),
                (block.register_forward_hook, read),
            )
            for place, hook in register:
                stack.callback(place(hook).remove)
        model(usable(images))
    return at_patches(model, torch.stack(maps).mean(0))


def _check(model: VisionTransformer) -> None:
    """Raise FggError unless each block has one attention and the head does not attend."""
    if getattr(model, "attn_pool", None) is not None:
        raise undefined("legrad", "a model that pools by attention")
    for block in model.blocks:
        if (found := len(attention_modules(block))) > 1:
            raise undefined("legrad", f"blocks of type {type(block).__name__} with {found} attentions")
