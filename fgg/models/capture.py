"""One forward and one backward pass that give everything the attribution methods read.

The backward pass starts from the sum of the batch's target logits, so every image gets its own
gradient. Attention gradients are reduced inside the gradient hook: a (B, H, T, T) gradient never
outlives its block. The graph begins at the first block's attention, which saves the backward pass
through the embedding, and it does not contain the parameters.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fgg.errors import FggError
from fgg.models.architectures import attention_modules, mixing, slope_of_mixing
from fgg.models.call_arguments import class_numbers
from fgg.models.fast_products import fast_products
from fgg.models.finite_logits import check_finite
from fgg.models.onednn_products import exact, onednn_products
from fgg.models.vit import check_images, check_layers


@dataclass
class Captured:
    """The results of a pass. B images, T tokens, D width, K classes; layers count from 0.

    Attributes:
        logits: (B, K).
        target: int64 (B,), the class that was explained.
        cams: per block mean_h max(A * dz/dA, 0), (B, T, T); empty if not requested. Attentions that stand side by side in
            a block add up, since their outputs do.
        attention: per block the mean of A over heads, (B, T, T), added up likewise; empty if not requested.
        last_attention, last_attention_gradient: A of the last block and dz/dA, (B, H, T, T), with the heads of all its
            attentions; empty if not requested.
        residuals: layer -> output of the block, (B, T, D).
        gradients: layer -> dz / d residual, (B, T, D).
        input_gradient: dz / d images, (B, C, H, W); None if not requested.
    """

    logits: Tensor
    target: Tensor
    cams: list[Tensor] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
    last_attention: Tensor = field(default_factory=lambda: torch.empty(0))
    last_attention_gradient: Tensor = field(default_factory=lambda: torch.empty(0))
    residuals: dict[int, Tensor] = field(default_factory=dict)
    gradients: dict[int, Tensor] = field(default_factory=dict)
    input_gradient: Tensor | None = None

    @property
    def predicted(self) -> Tensor:
        """Int64 (B,), the class with the largest logit."""
        return self.logits.argmax(-1)

    @property
    def confidence(self) -> Tensor:
        """Probability of the predicted class, (B,)."""
        return self.logits.softmax(-1).amax(-1)


@contextlib.contextmanager
def at_rest(model: nn.Module, fast: bool = True) -> Iterator[None]:
    """Eval mode, no parameter gradients, and with ``fast`` `fast_products` inside the block; everything is restored after."""
    training = [(module, module.training) for module in model.modules()]
    requires = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    for parameter, _ in requires:
        parameter.requires_grad_(False)
    try:
        with fast_products(model) if fast else contextlib.nullcontext():
            yield
    finally:
        for module, flag in training:
            module.training = flag
        for parameter, flag in requires:
            parameter.requires_grad_(flag)


@contextlib.contextmanager
def unfused(module: Any) -> Iterator[None]:
    """Inside the block, a module with attention forms the attention matrix, which the fused kernel never does."""
    if not hasattr(module, "fused_attn"):
        yield
        return
    before, module.fused_attn = module.fused_attn, False
    try:
        yield
    finally:
        module.fused_attn = before


@contextlib.contextmanager
def fast_graphs(model: VisionTransformer, images: Tensor) -> Iterator[None]:
    """Inside the block, passes of the images that are differentiated use `onednn_products`, if this machine has them.

    The CPU's fused attention takes three times as long in a graph with these products, so the matrix is formed.
    """
    with contextlib.ExitStack() as stack:
        if images.device.type == "cpu" and exact():
            stack.enter_context(onednn_products())
            for block in model.blocks:
                for module in attention_modules(block):
                    stack.enter_context(unfused(module))
        yield


def usable(images: Tensor) -> Tensor:
    """The images without their graph; a copy if they were made in inference mode, since only that can enter a graph."""
    return images.clone() if images.is_inference() else images.detach()


def attention_module(block: nn.Module) -> Any:
    """The one module of a block that has the attention's dropout, after which the attention can be read.

    Raises:
        FggError: the block has none, or several.
    """
    found = attention_modules(block)
    if len(found) > 1:
        raise FggError(f"a block of type {type(block).__name__} has {len(found)} attentions side by side, not one")
    return found[0]


def capture(
    model: VisionTransformer,
    images: Tensor,
    target: Tensor | None = None,
    *,
    cams: bool = False,
    attention: bool = False,
    last_attention: bool = False,
    layers: Sequence[int] = (),
    gradients: Sequence[int] | None = None,
    input_gradient: bool = False,
    weigh: Callable[[nn.Module, Tensor], Tensor] | None = None,
) -> Captured:
    """Run the model on normalised images (B, C, H, W) and keep what is requested.

    Args:
        target: int64 (B,), the class whose logit is differentiated; None means the predicted class.
        cams: keep C_l of every block (needs the backward pass).
        attention: keep the head-averaged attention of every block.
        last_attention: keep the last block's attention and its gradient.
        layers: keep the residual stream after these blocks.
        gradients: keep the gradients after these blocks (default: the same layers).
        input_gradient: keep the gradient with respect to the images.
        weigh: maps a block and its input (B, T, D) to weights (B, H, T) of the columns inside ``cams``.

    Raises:
        FggError: wrong image shape, a layer beyond the depth, or logits that are not finite.
    """
    check_images(model, images)
    with torch.inference_mode(False):
        images = usable(images)
        if input_gradient:
            images = images.clone().requires_grad_()
    wanted = tuple(layers) if gradients is None else tuple(gradients)
    check_layers(model, (*layers, *wanted))
    backward = cams or last_attention or bool(wanted) or input_gradient
    found = Captured(images.new_empty(0), images.new_empty(0, dtype=torch.long))
    per_block: dict[str, list[Tensor | None]] = {name: [None] * len(model.blocks) for name in ("cams", "attention")}

    weights: dict[int, Tensor] = {}

    def add(name: str, index: int, value: Tensor) -> None:
        before = per_block[name][index]
        per_block[name][index] = value if before is None else before + value

    lasts: list[Tensor] = []
    slopes: dict[int, Tensor] = {}

    def read_attention(index: int, module: nn.Module):
        def hook(_drop, _inputs, output: Tensor) -> Tensor | None:
            if attention:
                add("attention", index, mixing(module, output.detach()).mean(1))
            if not backward:
                return None
            replaced = None
            if not output.requires_grad:  # the first block: the graph begins here
                output = replaced = output.detach().requires_grad_()
            if cams:
                values, weight = mixing(module, output.detach()), weights.pop(index, None)

                def reduce(gradient: Tensor) -> None:
                    positive = (values * slope_of_mixing(module, gradient)).clamp_(min=0)
                    add("cams", index, (positive if weight is None else positive * weight[:, :, None]).mean(1))

                output.register_hook(reduce)
            if last_attention and index == len(model.blocks) - 1:
                place = len(lasts)
                lasts.append(mixing(module, output.detach()))
                output.register_hook(lambda gradient: slopes.__setitem__(place, slope_of_mixing(module, gradient)))
            return replaced

        return hook

    def read_input(index: int, weigh: Callable[[nn.Module, Tensor], Tensor]):
        def hook(block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            with torch.no_grad():
                weights[index] = weigh(block, inputs[0].detach())

        return hook

    def read_residual(index: int):
        def hook(_module, _inputs, output: Tensor) -> None:
            if index in layers:
                found.residuals[index] = output.detach()
            if index in wanted:
                output.register_hook(lambda gradient: found.gradients.__setitem__(index, gradient))

        return hook

    with contextlib.ExitStack() as stack:
        stack.enter_context(at_rest(model))
        stack.enter_context(fast_graphs(model, images) if backward else onednn_products())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(backward))
        for index, block in enumerate(model.blocks):
            for module in attention_modules(block):
                if cams or attention or last_attention or (backward and index == 0):
                    stack.enter_context(unfused(module))
                    handle = module.attn_drop.register_forward_hook(read_attention(index, module))
                    stack.callback(handle.remove)
            if weigh is not None:
                stack.callback(block.register_forward_pre_hook(read_input(index, weigh)).remove)
            if index in layers or index in wanted:
                stack.callback(block.register_forward_hook(read_residual(index)).remove)
        logits = model(images)
        found.logits = logits.detach().float()
        if logits.ndim != 2:
            raise FggError(
                f"the model gives {tuple(logits.shape)} instead of logits (images, classes); check that its head pools"
            )
        check_finite(model, images, found.logits)
        found.target = found.predicted if target is None else check_target(target, found.logits)
        if backward:
            logits.gather(1, found.target[:, None]).sum().backward()
    if input_gradient:
        found.input_gradient = images.grad
    if last_attention:
        found.last_attention = torch.cat(lasts, dim=1)
        found.last_attention_gradient = torch.cat([slopes[place] for place in range(len(lasts))], dim=1)
    if cams:
        found.cams = [c for c in per_block["cams"] if c is not None]
    if attention:
        found.attention = [a for a in per_block["attention"] if a is not None]
    for index in wanted:
        if index not in found.gradients:
            raise FggError(
                f"the gradient after layer {index} was not computed; check whether the model's graph is cut there"
            )
    return found


def check_target(target: Tensor | int, logits: Tensor) -> Tensor:
    """The target as int64 (B,) for logits (B, K); raises FggError if it does not hold one class per image."""
    batch, classes = logits.shape
    target = class_numbers(target, logits.device)
    if target.ndim == 0:
        target = target.expand(batch)
    if target.shape != (batch,) or not ((target >= 0) & (target < classes)).all():
        raise FggError(f"target must hold one class from 0 to {classes - 1} per image, int64 ({batch},)")
    return target
