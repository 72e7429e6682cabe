"""What the perturbation methods play with: the class's probability while some patches are filled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.models.vit import patch_size
from fgg.perturbation.engine import Perturber
from fgg.perturbation.fills import make_fill


class Game:
    """The probability of a class of each image as a function of the patches that are filled.

    Args:
        target: int64 (B,).
        fill: one of `fgg.catalogue.FILLS` that needs no values of the training images, or a number.
        image_ids, seed: determine the fill's random draws.

    Attributes:
        patches: N.
        grid: rows and columns of patches.
        clean: float32 (B,), the probability with nothing filled.

    Raises:
        FggError: an unknown fill.
    """

    def __init__(
        self,
        model: VisionTransformer,
        images: Tensor,
        target: Tensor,
        fill: str | float,
        image_ids: Sequence[str],
        seed: int,
    ) -> None:
        self._plain = plain = Perturber(model, images)
        self._engine = plain.using(make_fill(fill, images, patch_size(model), None, image_ids, seed))
        self._target = target
        self.patches, self.grid = plain.patches, (plain.grid[0], plain.grid[1])
        self.clean = self._read(plain.clean[:, None])[:, 0]

    def probability(self, filled: Tensor) -> Tensor:
        """The class's probability, float32 (B, V), for versions bool (B, V, N) with the patches that are filled.

        If the fill is removal and the model then has no tokens to read, every patch is filled with the image's mean.
        """
        found = self._read(self._engine.logits(filled))
        nothing = filled.all(-1)
        if nothing.any() and found.isnan().any():
            found = torch.where(nothing & found.isnan(), self._read(self._plain.logits(filled)), found)
        return found

    def _read(self, logits: Tensor) -> Tensor:
        chosen = self._target[:, None, None].expand(-1, logits.shape[1], 1)
        return torch.softmax(logits, -1).gather(2, chosen)[..., 0]
