"""RISE (Petsiuk et al. 2018) on patches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.attribution.perturbed import Game
from fgg.attribution.registry import method
from fgg.errors import FggError
from fgg.randomness import generator


@method(
    title="RISE",
    citation="Petsiuk et al. 2018, RISE: Randomized Input Sampling for Explanation of Black-box Models (on whole patches)",
    forward_passes=2,
    backward_passes=0,
    repeats="samples",
    assumes="a patch matters if the class is likely whenever the patch is seen, whatever else is hidden",
)
def rise(
    model: VisionTransformer,
    images: Tensor,
    target: Tensor,
    image_ids: Sequence[str],
    seed: int,
    samples: int = 1000,
    keep: float = 0.5,
    cell: int = 2,
    fill: str = "mean",
) -> Tensor:
    """The class's mean probability over the random masks that keep a patch: (B, N).

    The masks are coarse, as in the paper: cells of several patches, at a random offset, are kept or filled. Patches are
    filled as a whole, where the paper fades pixels. The mean is over the masks that do keep the patch, where the paper
    divides by their expected number.

    Args:
        samples: number of masks.
        keep: probability that a cell is kept.
        cell: height and width of a cell in patches.
        fill: one of `fgg.catalogue.FILLS`, or a number.

    Raises:
        FggError: no samples, cells below one patch, or a probability outside 0 to 1.
    """
    if samples < 1 or cell < 1 or not 0 < keep < 1:
        raise FggError(f"rise: samples {samples} and cell {cell} must be at least 1, and keep {keep} between 0 and 1")
    game = Game(model, images, target, fill, image_ids, seed)
    drawn = [kept_patches(name, seed, samples, game.grid, cell, keep) for name in image_ids]
    kept = torch.from_numpy(np.array(drawn, dtype=bool).reshape(len(images), samples, game.patches)).to(images.device)
    counts = kept.sum(1)
    total = (game.probability(~kept)[:, :, None] * kept).sum(1)
    return torch.where(counts > 0, total / counts, total.new_zeros(()))


def kept_patches(image_id: str, seed: int, samples: int, grid: tuple[int, int], cell: int, keep: float) -> np.ndarray:
    """The random masks of an image, True where a patch is kept: bool (samples, N)."""
    draw = generator(seed, "rise", image_id)
    rows, columns = grid
    coarse = draw.random((samples, -(-rows // cell) + 1, -(-columns // cell) + 1)) < keep
    shifts = draw.integers(0, cell, (samples, 2))
    down, across = (shifts[:, [axis]] + np.arange(length) for axis, length in enumerate(grid))
    return coarse[np.arange(samples)[:, None, None], (down // cell)[:, :, None], (across // cell)[:, None]].reshape(
        samples, -1
    )
