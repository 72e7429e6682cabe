"""A head that reads the class token and the mean of the patches, as the classifiers of DINOv2 do."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fgg.errors import FggError

POOL = "token_and_avg"  # model.kwargs.global_pool


class ClassAndPatchesHead(nn.Module):
    """A linear layer on the class token beside the mean of the patch tokens; replaces timm's head. D width, K classes."""

    def __init__(self, width: int, classes: int, prefix: int) -> None:
        super().__init__()
        layer = nn.Linear(2 * width, classes)
        self.weight, self.bias = layer.weight, layer.bias
        self.prefix = prefix

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, K) of normed tokens (B, T, D)."""
        features = torch.cat([tokens[:, 0], tokens[:, self.prefix :].mean(1)], dim=1)
        return nn.functional.linear(features, self.weight, self.bias)


def give_head(model: VisionTransformer) -> VisionTransformer:
    """The model, built by timm without pooling, with this head.

    Raises:
        FggError: it has no class token, or no classes.
    """
    if model.cls_token is None or not isinstance(model.head, nn.Linear):
        raise FggError(f"model.kwargs.global_pool: {POOL} needs a class token and classes; choose avg, or num_classes")
    model.add_module("head", ClassAndPatchesHead(model.embed_dim, model.num_classes, model.num_prefix_tokens))
    return model
