"""KernelSHAP over patches (Lundberg & Lee 2017)."""

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
    title="KernelSHAP",
    citation="Lundberg & Lee 2017, A Unified Approach to Interpreting Model Predictions; Covert & Lee 2021, Improving KernelSHAP",
    forward_passes=3,
    backward_passes=0,
    repeats="samples",
    assumes="the probability with some patches filled is what the model would say without them",
)
def kernel_shap(
    model: VisionTransformer,
    images: Tensor,
    target: Tensor,
    image_ids: Sequence[str],
    seed: int,
    samples: int = 1024,
    fill: str = "mean",
) -> Tensor:
    """Shapley values of the patches for the class's probability, by constrained least squares: (B, N).

    Coalitions are drawn by the Shapley kernel, each with its complement. If the samples suffice for all coalitions,
    all are used once, with their weights, and the values are exact. The values of an image add up to its probability
    minus that of the filled image.

    Args:
        samples: number of coalitions.
        fill: one of `fgg.catalogue.FILLS`, or a number.

    Raises:
        FggError: fewer samples than twice the number of patches, which do not determine the values.
    """
    game = Game(model, images, target, fill, image_ids, seed)
    if not len(images) or game.patches == 1:
        one = torch.ones(len(images), 1, game.patches, dtype=torch.bool, device=images.device)
        return (game.clean[:, None] - game.probability(one)).expand(-1, game.patches)
    everything = 2**game.patches - 2 if game.patches < 31 else None
    exact = everything is not None and everything <= samples
    if not exact and samples < 2 * game.patches:
        raise FggError(
            f"kernel_shap: {samples} samples are too few for {game.patches} patches; take twice as many or more"
        )
    if exact:
        every, weights = all_coalitions(game.patches)
        drawn = np.broadcast_to(every, (len(images), *every.shape))
    else:
        drawn = np.stack([coalitions(name, seed, samples, game.patches) for name in image_ids])
        weights = np.full(samples, 1 / samples)
    kept = torch.from_numpy(np.array(drawn)).to(images.device)
    empty = game.probability(torch.ones_like(kept[:, :1]))[:, 0].double()
    values = game.probability(~kept).double() - empty[:, None]
    return shapley(kept, values, game.clean.double() - empty, torch.from_numpy(weights).to(images.device))


def coalitions(image_id: str, seed: int, samples: int, patches: int) -> np.ndarray:
    """Random coalitions of an image, True where a patch is kept, each followed by its complement: bool (samples, N)."""
    draw = generator(seed, "kernel_shap", image_id)
    sizes = np.arange(1, patches)
    # The kernel's weight of a size, summed over the coalitions of that size.
    chance = 1 / (sizes * (patches - sizes))
    pairs = -(-samples // 2)
    drawn = draw.choice(sizes, pairs, p=chance / chance.sum())
    ranks = draw.random((pairs, patches)).argsort(1).argsort(1)
    half = ranks < drawn[:, None]
    return np.stack([half, ~half], axis=1).reshape(-1, patches)[:samples]


def all_coalitions(patches: int) -> tuple[np.ndarray, np.ndarray]:
    """All coalitions but the empty and the full one, bool (2^N - 2, N), and their weights in the kernel."""
    codes = np.arange(1, 2**patches - 1)
    kept = (codes[:, None] >> np.arange(patches)) & 1 == 1
    sizes = kept.sum(1)
    number = np.bincount(sizes, minlength=patches)[sizes]
    weights = 1 / (sizes * (patches - sizes) * number)
    return kept, weights / weights.sum()


def shapley(kept: Tensor, values: Tensor, total: Tensor, weights: Tensor) -> Tensor:
    """The least-squares values that add up to the total (Covert & Lee 2021, eq. 9).

    Args:
        kept: bool (B, S, N), the coalitions.
        values: float64 (B, S), a coalition's value minus the empty one's.
        total: float64 (B,), the full coalition's value minus the empty one's.
        weights: float64 (S,).

    Returns:
        float64 (B, N).
    """
    members = kept.double()
    weighted = members * weights[:, None]
    product = weighted.transpose(1, 2) @ members
    right = (weighted.transpose(1, 2) @ values[..., None])[..., 0]
    ones = torch.ones_like(right)
    solved = torch.linalg.solve(product, torch.stack([right, ones], dim=-1))
    free, unit = solved[..., 0], solved[..., 1]
    return free - unit * ((free.sum(-1) - total) / unit.sum(-1))[:, None]
