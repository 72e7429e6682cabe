"""Occlusion of single patches (Zeiler & Fergus 2014)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.attribution.perturbed import Game
from fgg.attribution.registry import method


@method(
    title="Occlusion",
    citation="Zeiler & Fergus 2014, Visualizing and Understanding Convolutional Networks (one patch at a time)",
    forward_passes=2,
    backward_passes=0,
    repeats="patches",
    role="ceiling",
    assumes="patches act alone: what two of them say together is not seen",
)
def occlusion(
    model: VisionTransformer,
    images: Tensor,
    target: Tensor,
    image_ids: Sequence[str],
    seed: int,
    fill: str = "mean",
) -> Tensor:
    """How much the class's probability drops when a patch alone is filled: (B, N).

    SaCo and Faithfulness Correlation measure agreement with such drops, so this is close to their best possible map.

    Args:
        fill: one of `fgg.catalogue.FILLS`, or a number.
    """
    game = Game(model, images, target, fill, image_ids, seed)
    alone = torch.eye(game.patches, dtype=torch.bool, device=images.device).expand(len(images), -1, -1)
    return game.clean[:, None] - game.probability(alone)
