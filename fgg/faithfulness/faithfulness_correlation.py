"""Faithfulness Correlation (Bhatt et al. 2020), by ranks, with the model's answers kept apart.

The drops of the logit for random patch subsets do not depend on the relevance. They are computed once
per dataset (`responses`) and shared by all experiments (`correlate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.errors import FggError
from fgg.faithfulness.checks import check_protocol, check_relevance, class_of
from fgg.faithfulness.perturbation import Perturber
from fgg.faithfulness.registry import metric
from fgg.randomness import generator

# Below this standard deviation the research code calls a series constant.
THESIS_CONSTANT = 1e-10


@dataclass(frozen=True)
class Responses:
    """The model's answers to random patch subsets of a batch.

    Attributes:
        subsets: int64 (B, trials, runs, k), the patches that were filled together.
        drops: (B, trials, runs), how much the logit fell.
    """

    subsets: Tensor
    drops: Tensor


@metric(
    name="faithfulness_correlation",
    title="Faithfulness Correlation",
    short="Faithf. Corr.",
    citation="Bhatt et al. 2020, Evaluating and Aggregating Feature-based Model Explanations",
    higher_is_better=True,
    lowest=-1.0,
    highest=1.0,
    quantity="Spearman correlation (−1 to 1)",
    definition="does the summed relevance of random patch subsets rank the drops of the logit?",
    assumes="relevance adds up over patches; few runs make it noisy",
    passes="runs x trials, shared by all experiments",
    needs=("responses",),
    settings={
        "runs": {"description": "Random subsets per trial.", "type": "integer", "minimum": 3, "default": 20},
        "trials": {"description": "Trials that are averaged.", "type": "integer", "minimum": 1, "default": 3},
        "subset_size": {"description": "Patches per subset.", "type": "integer", "minimum": 1, "default": 20},
    },
    columns={
        "faithfulness_correlation_sd": "standard deviation over trials",
        "faithfulness_correlation_se": "standard error of the mean over trials",
        "faithfulness_correlation_undefined": "trials without a value",
    },
    default=True,
    place=2,
)
def faithfulness_correlation_scores(
    relevance: Tensor, responses: Responses, protocol: str, runs: int = 20, trials: int = 3, subset_size: int = 20
) -> dict[str, Tensor]:
    """The mean over trials, their spread, the mean's error, and the undefined trials."""
    scores = correlate(relevance, responses.subsets, responses.drops, protocol)
    spread = scores.std(1, correction=1) if trials > 1 else torch.full_like(scores[:, 0], torch.nan)
    return {
        "faithfulness_correlation": scores.mean(1),
        "faithfulness_correlation_sd": spread,
        "faithfulness_correlation_se": spread / trials**0.5,
        "faithfulness_correlation_undefined": scores.isnan().sum(1),
    }


def draw_subsets(
    image_ids: Sequence[str], patches: int, trials: int, runs: int, subset_size: int, seed: int
) -> np.ndarray:
    """Random patch subsets keyed by (seed, image_id, trial), without repetition inside a subset.

    Args:
        image_ids: B names; the same name gets the same subsets.
        patches: patches of an image, N.
        trials: independent repetitions of the whole measurement.
        runs: subsets per trial.
        subset_size: patches per subset, below N.
        seed: key of the same.

    Returns:
        int64 (B, trials, runs, subset_size).

    Raises:
        FggError: subsets that are not smaller than the image.
    """
    if not 0 < subset_size < patches:
        raise FggError(
            f"metrics.faithfulness_correlation.subset_size: {subset_size} must be from 1 to {patches - 1}, "
            f"below the {patches} patches of an image"
        )
    everything = np.tile(np.arange(patches), (runs, 1))
    return np.stack(
        [
            np.stack(
                [
                    generator(seed, "subsets", name, trial).permuted(everything, axis=1)[:, :subset_size]
                    for trial in range(trials)
                ]
            )
            for name in image_ids
        ]
    )


def responses(engine: Perturber, subsets: Tensor, target: Tensor | None = None) -> Tensor:
    """Drops of the target logit when patch subsets are filled with the image's mean.

    Args:
        subsets: int64 (B, R, k).
        target: int64 (B,); None takes the predicted class.

    Returns:
        float32 (B, R).
    """
    batch, runs, _ = subsets.shape
    chosen = class_of(engine, target)
    masks = torch.zeros(batch, runs, engine.patches, dtype=torch.bool, device=engine.images.device)
    masks.scatter_(2, subsets.to(masks.device, torch.int64), True)
    filled = engine.logits(masks).gather(2, chosen[:, None, None].expand(-1, runs, 1))[..., 0]
    return engine.clean.gather(1, chosen[:, None]) - filled


def correlate(relevance: Tensor, subsets: Tensor, drops: Tensor, protocol: str = "corrected") -> Tensor:
    """Spearman correlation over runs between a subset's summed relevance and its drop.

    Args:
        relevance: (B, N).
        subsets: int64 (B, ..., runs, k).
        drops: (B, ..., runs).
        protocol: ``thesis`` gives 0 where a series is constant; ``corrected`` NaN.

    Returns:
        float64 (B, ...).
    """
    check_protocol(protocol)
    subsets = subsets.to(relevance.device, torch.int64)
    members = relevance.gather(1, subsets.flatten(1)).view(subsets.shape)
    # In one order and in float64, so that equal members give equal sums, which tie.
    sums = members.double().sort(-1).values.sum(-1)
    unknown = relevance.isnan().any(1).view(-1, *[1] * (sums.ndim - 1))
    sums = torch.where(unknown, torch.nan, sums)
    if protocol == "thesis":
        constant = (sums.std(-1, correction=0) < THESIS_CONSTANT) | (
            drops.double().std(-1, correction=0) < THESIS_CONSTANT
        )
        return torch.where(constant, 0.0, spearman(sums, drops)).nan_to_num(nan=0.0)
    return spearman(sums, drops)


def spearman(x: Tensor, y: Tensor) -> Tensor:
    """Spearman's rank correlation along the last dimension, ties by mean rank; NaN for a constant series."""
    x, y = _ranks(x), _ranks(y)
    x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    scale = (x.square().sum(-1) * y.square().sum(-1)).sqrt()
    return torch.where(scale > 0, (x * y).sum(-1) / scale, torch.nan)


def _ranks(values: Tensor) -> Tensor:
    """Mean ranks from 1 on, float64; a series with NaN has NaN ranks."""
    below = (values[..., None, :] < values[..., :, None]).sum(-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(-1)
    ranks = below.double() + (equal + 1).double() / 2
    return torch.where(values.isnan().any(-1, keepdim=True), torch.nan, ranks)


def faithfulness_correlation(
    model: VisionTransformer,
    images: Tensor,
    relevance: Tensor,
    target: Tensor | None = None,
    subsets: Tensor | np.ndarray | None = None,
    protocol: str = "corrected",
) -> Tensor:
    """Faithfulness Correlation: does the summed relevance of random patches follow the drop when they are filled?

    From Bhatt et al. 2020, *Evaluating and Aggregating Feature-based Model Explanations*, with ranks instead of
    values: Spearman's correlation, over the runs, between the relevance of a random subset of patches, summed, and
    the drop of the class's logit when the subset is filled with the image's mean.

    Args:
        model: a timm VisionTransformer; it leaves the call as it came.
        images: normalised float (B, C, H, W), on the model's device.
        relevance: (B, N), patches row by row, such as ``fgg.attribute(…).relevance``.
        target: class per image, int64 (B,), or one for all; None takes the predicted class.
        subsets: int64 (B, runs, k), tensor or array, the patches that are filled together in each run, from 0 to
            N - 1; required. ``fgg.draw_subsets(image_ids, N, 1, runs, k, seed)[:, 0]`` draws them.
        protocol: ``corrected``, or ``thesis``, which gives 0 where the sums or the drops are constant.

    Returns:
        float64 (B,), from -1 to 1; higher is better. NaN where the sums or the drops are constant, or a
        relevance is NaN. With few runs it is noisy: see docs/sampling-error.md.

    Raises:
        FggError: images, relevance or subsets of the wrong shape, subsets missing or beyond the patches, an unknown
            class or protocol.
    """
    engine = Perturber(model, images)
    relevance = check_relevance(engine, relevance)
    if subsets is None or subsets.ndim != 3 or len(subsets) != len(images):
        raise FggError(
            "subsets must be int64 (images, runs, patches per subset), such as "
            "fgg.draw_subsets(image_ids, patches, 1, runs, subset_size, seed)[:, 0]"
        )
    subsets = torch.as_tensor(subsets)
    if subsets.numel() and not 0 <= int(subsets.min()) <= int(subsets.max()) < engine.patches:
        raise FggError(f"subsets must name patches from 0 to {engine.patches - 1}")
    return correlate(relevance, subsets, responses(engine, subsets, target), protocol)
