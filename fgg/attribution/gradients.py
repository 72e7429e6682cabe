"""Where a gradient method measures relevance: at the pixels, or at the tokens after some blocks.

At tokens, the relevance of a patch is summed over the width of its token. A gate multiplies it there. With several
layers, the relevances at the layers are added.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.attribution.patches import to_patches
from fgg.models.architectures import after, logits_of
from fgg.models.capture import Captured, at_rest, capture, fast_graphs, usable
from fgg.models.vit import at_patches, check_layers, patch_size

Logits = Callable[[Tensor], Tensor]


def gradient(logits: Logits, inputs: Tensor, target: Tensor) -> Tensor:
    """The gradient of the target's logit with respect to the inputs (B, …), in their shape."""
    with _differentiable():
        inputs = inputs.detach().requires_grad_()
        value = logits(inputs).gather(1, target[:, None]).sum()
        return torch.autograd.grad(value, inputs)[0]


def at_places(
    model: VisionTransformer,
    images: Tensor,
    layers: Sequence[int] | None,
    gates: Mapping[int, Tensor],
    explain: Callable[[Logits, Tensor, int | None], Tensor],
    root: bool = False,
) -> Tensor:
    """Relevance of the patches (B, N), measured at the pixels or at the tokens after some blocks.

    Args:
        layers: blocks, counted from 0, after which relevance is measured and then added; None measures it at the pixels.
        gates: layer -> (B, N).
        explain: takes a function from inputs to logits (B, K), inputs, and their layer (None for pixels); the inputs
            are images (B, C, H, W) or tokens (B, T, D). Returns the relevance of each of their elements, whose sum is
            that of a patch.
        root: take the square root of each sum, for relevances that are squares.

    Raises:
        FggError: a layer beyond the depth.
    """
    with at_rest(model), fast_graphs(model, images), torch.inference_mode(False):
        images = usable(images)
        if layers is None:
            return _of_pixels(model, explain(model, images, None), root)
        check_layers(model, tuple(layers))
        tokens = tokens_after(model, images, layers)
        return _added(
            layers,
            gates,
            lambda layer: at_patches(model, explain(rest_of(model, layer), tokens[layer], layer)),
            root,
        )


def input_times_gradient(
    model: VisionTransformer,
    images: Tensor,
    target: Tensor,
    layers: Sequence[int] | None,
    gates: Mapping[int, Tensor],
) -> Tensor:
    """Input times the gradient of the target's logit, (B, N), at the places that `at_places` describes."""
    return at_places(model, images, layers, gates, lambda logits, x, _layer: x * gradient(logits, x, target))


def of_one_pass(
    model: VisionTransformer,
    images: Tensor,
    target: Tensor | None,
    layers: Sequence[int] | None,
    gates: Mapping[int, Tensor],
    explain: Callable[[Tensor, Tensor], Tensor],
    root: bool = False,
) -> tuple[Tensor, Captured]:
    """Relevance of the patches (B, N) by one forward and one backward pass, and what the pass captured.

    Args:
        target: int64 (B,); None means the predicted class.
        layers: blocks after which relevance is measured and then added; None measures it at the pixels.
        gates: layer -> (B, N).
        explain: takes inputs and the gradient of the target's logit there, both pixels (B, C, H, W) or tokens
            (B, T, D). Returns the relevance of each of their elements, whose sum is that of a patch.
        root: take the square root of each sum, for relevances that are squares.

    Raises:
        FggError: a layer beyond the depth.
    """
    if layers is None:
        seen = capture(model, images, target, input_gradient=True)
        assert seen.input_gradient is not None
        return _of_pixels(model, explain(usable(images), seen.input_gradient), root), seen
    seen = capture(model, images, target, layers=tuple(layers))
    found = _added(
        layers,
        gates,
        lambda layer: at_patches(model, explain(seen.residuals[layer], seen.gradients[layer])),
        root,
    )
    return found, seen


def _of_pixels(model: VisionTransformer, elements: Tensor, root: bool) -> Tensor:
    """The relevance of the patches (B, N) from that of their pixels (B, C, H, W)."""
    relevance = to_patches(elements.detach(), patch_size(model))
    return relevance.sqrt() if root else relevance


def _added(layers: Sequence[int], gates: Mapping[int, Tensor], elements: Callable[[int], Tensor], root: bool) -> Tensor:
    """The relevance of the patches (B, N), gated and added, from that of their tokens' elements (B, N, D) at each layer."""
    total = None
    for layer in layers:
        relevance = elements(layer).detach().sum(-1)
        relevance = relevance.sqrt() if root else relevance
        relevance = relevance * gates[layer] if layer in gates else relevance
        total = relevance if total is None else total + relevance
    assert total is not None
    return total


def tokens_after(model: VisionTransformer, images: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
    """Layer -> the tokens (B, T, D) after that block."""
    found: dict[int, Tensor] = {}
    with contextlib.ExitStack() as hooks, torch.no_grad():
        for layer in layers:
            keep = model.blocks[layer].register_forward_hook(
                lambda _module, _inputs, output, layer=layer: found.__setitem__(layer, output.detach())
            )
            hooks.callback(keep.remove)
        model(images)
    return found


def rest_of(model: VisionTransformer, layer: int) -> Logits:
    """The part of the model behind a block: tokens (B, T, D) to logits (B, K)."""
    return lambda tokens: logits_of(model, after(model, tokens, layer + 1))


@contextlib.contextmanager
def _differentiable() -> Iterator[None]:
    with torch.inference_mode(False), torch.enable_grad():
        yield


def grown_from(
    model: VisionTransformer, module: torch.nn.Module, images: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """The output of a module of the model, and the gradient of the target's logit with respect to it; both (B, T, D)."""
    found: list[Tensor] = []

    def begin(_module: torch.nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        found.append(output.detach().requires_grad_())
        return found[0]

    with at_rest(model), _differentiable():
        hook = module.register_forward_hook(begin)
        try:
            value = model(usable(images)).gather(1, target[:, None]).sum()
        finally:
            hook.remove()
        return found[0].detach(), torch.autograd.grad(value, found[0])[0]
