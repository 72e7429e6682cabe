"""Libra FullGrad+ (Mehri et al. 2025): contributions of all blocks' inputs and of all biases."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fgg.attribution.backward_rules import NORMS, check_rules, differentiable
from fgg.attribution.libragrad import balanced
from fgg.attribution.registry import method
from fgg.models.capture import usable
from fgg.models.vit import at_patches


@method(
    title="Libra FullGrad+",
    citation="Mehri et al. 2025, LibraGrad: Balancing Gradient Flow for Universally Better Vision Transformer Attributions",
    forward_passes=2,
    backward_passes=1,
    assumes="a patch counts for what its token contributes at every block, and for the biases that are added to it",
)
def libragrad_fullgrad_plus(model: VisionTransformer, images: Tensor, target: Tensor) -> Tensor:
    """FullGrad+ under LibraGrad's backward pass: (B, N).

    The sum of two kinds of terms, each summed over the width of a token (section 2.1 of the paper, signs kept):

    - x_l times its gradient, x_l the tokens that enter block l, for all blocks;
    - b times its gradient at each token, b the biases of the linear layers and norms in the blocks, and of the last
      norm before pooling. Biases behind the pooling belong to no token. Those of the embedding are part of x_0.

    Raises:
        FggError: the model has a part that LibraGrad has no rule for.
    """
    check_rules(model, "libragrad_fullgrad_plus", pixels=False)
    terms: list[Tensor] = []

    def read_input(_block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        x = inputs[0] if inputs[0].requires_grad else inputs[0].detach().requires_grad_()
        values = x.detach()
        x.register_hook(lambda gradient: terms.append((values * gradient).sum(-1)))
        return (x,)

    def read_bias(module: Any, _inputs: tuple[Any, ...], output: Tensor) -> None:
        output.register_hook(lambda gradient: terms.append((gradient * module.bias).sum(-1)))

    # Norms of queries and keys get no gradient, because attention is constant.
    skipped = {id(norm) for block in model.blocks for norm in (block.attn.q_norm, block.attn.k_norm)}
    parts = [module for part in (*model.blocks, model.norm) for module in part.modules() if id(module) not in skipped]
    with balanced(model), contextlib.ExitStack() as hooks:
        for block in model.blocks:
            hooks.callback(block.register_forward_pre_hook(read_input).remove)
        for part in parts:
            if isinstance(part, (nn.Linear, *NORMS)) and getattr(part, "bias", None) is not None:
                hooks.callback(part.register_forward_hook(read_bias).remove)
        hooks.enter_context(differentiable(model))
        model(usable(images)).gather(1, target[:, None]).sum().backward()
    return at_patches(model, torch.stack(terms).sum(0))
