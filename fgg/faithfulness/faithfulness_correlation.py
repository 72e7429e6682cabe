"""Faithfulness Correlation (Bhatt et al. 2020), by ranks.

The drops of the logit for random patch subsets do not depend on the relevance. They are therefore computed once
per dataset (`responses`) and shared by all experiments (`correlate`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.errors import FggError
from fgg.faithfulness.checks import (
    check_protocol,
    check_relevance,
    check_subsets,
    class_of,
    mean_ranks,
    tell_undefined,
    unchanged,
)
from fgg.faithfulness.order_curves import engine_of
from fgg.faithfulness.registry import metric
from fgg.models.arguments import full_precision, whole_number
from fgg.models.call_arguments import list_of_names, seed_number
from fgg.perturbation.engine import Perturber
from fgg.randomness import generator

# Below this standard deviation the research code calls a series constant.
THESIS_CONSTANT = 1e-10


@dataclass(frozen=True)
class Responses:
    """The model's responses to random patch subsets of a batch.

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
    """The mean over trials, the trials' spread, the standard error of the mean, and the number of undefined trials."""
    return over_trials("faithfulness_correlation", correlate(relevance, responses.subsets, responses.drops, protocol))


def over_trials(name: str, scores: Tensor) -> dict[str, Tensor]:
    """The columns of a metric from its scores (B, trials)."""
    trials = scores.shape[1]
    spread = scores.std(1, correction=1) if trials > 1 else torch.full_like(scores[:, 0], torch.nan)
    return {
        name: scores.mean(1),
        f"{name}_sd": spread,
        f"{name}_se": spread / trials**0.5,
        f"{name}_undefined": scores.isnan().sum(1),
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
        subset_size: patches per subset, less than N.
        seed: key of the draws.

    Returns:
        int64 (B, trials, runs, subset_size).

    Raises:
        FggError: the subsets are not smaller than the image, a number is not whole, or image_ids are no names.
    """
    patches, trials, runs = (
        whole_number(value, name) for name, value in (("patches", patches), ("trials", trials), ("runs", runs))
    )
    subset_size = whole_number(subset_size, "metrics.faithfulness_correlation.subset_size", least=None)
    if not 0 < subset_size < patches:
        raise FggError(
            f"metrics.faithfulness_correlation.subset_size: {subset_size} must be from 1 to {patches - 1}, "
            f"below the {patches} patches of an image"
        )
    if patches * runs > MOST_DRAWN:
        raise FggError(f"patches: {patches} in {runs} runs are more than any image has; give the patches of an image")
    names, seed = list_of_names(image_ids), seed_number(seed)
    if not names:
        return np.zeros((0, trials, runs, subset_size), dtype=np.int64)
    everything = np.tile(np.arange(patches), (runs, 1))
    return np.stack(
        [
            np.stack(
                [
                    generator(seed, "subsets", name, trial).permuted(everything, axis=1)[:, :subset_size]
                    for trial in range(trials)
                ]
            )
            for name in names
        ]
    )


def responses(engine: Perturber, subsets: Tensor, target: Tensor | None = None) -> Tensor:
    """Drops of the target logit when patch subsets are filled.

    Args:
        subsets: int64 (B, R, k).
        target: int64 (B,); None takes the predicted class.

    Returns:
        float32 (B, R); 0 where the fill leaves the image as it is.
    """
    batch, runs, _ = subsets.shape
    chosen = class_of(engine, target)
    masks = torch.zeros(batch, runs, engine.patches, dtype=torch.bool, device=engine.images.device)
    masks.scatter_(2, subsets.to(masks.device, torch.int64), True)
    filled = engine.logits(masks).gather(2, chosen[:, None, None].expand(-1, runs, 1))[..., 0]
    drops = engine.clean.gather(1, chosen[:, None]) - filled
    return torch.where(unchanged(engine)[:, None], 0.0, drops)


def correlate(
    relevance: Tensor,
    subsets: Tensor,
    drops: Tensor,
    protocol: str = "corrected",
    correlation: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Correlation over runs between a subset's summed relevance and its drop.

    Args:
        relevance: (B, N).
        subsets: int64 (B, ..., runs, k).
        drops: (B, ..., runs).
        protocol: ``thesis`` gives 0 where a series is constant; the others give NaN.
        correlation: `spearman` or `pearson`; None takes `spearman`.

    Returns:
        float64 (B, ...).
    """
    check_protocol(protocol)
    correlation = correlation or spearman
    subsets = subsets.to(relevance.device, torch.int64)
    members = relevance.gather(1, subsets.flatten(1)).view(subsets.shape)
    # Sum sorted float64 values, so that equal members give exactly equal sums, that is, ties.
    sums = members.double().sort(-1).values.sum(-1)
    unknown = relevance.isnan().any(1).view(-1, *[1] * (sums.ndim - 1))
    sums = torch.where(unknown, torch.nan, sums)
    if protocol == "thesis":
        constant = (sums.std(-1, correction=0) < THESIS_CONSTANT) | (
            drops.double().std(-1, correction=0) < THESIS_CONSTANT
        )
        return torch.where(constant, 0.0, correlation(sums, drops)).nan_to_num(nan=0.0)
    return correlation(sums, drops)


def spearman(x: Tensor, y: Tensor) -> Tensor:
    """Spearman's rank correlation along the last dimension, ties by mean rank; NaN for a constant series."""
    return _correlation(mean_ranks(x), mean_ranks(y))


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation along the last dimension, float64; NaN for a constant series."""
    constant = (x == x[..., :1]).all(-1) | (y == y[..., :1]).all(-1)
    return torch.where(constant, torch.nan, _correlation(x.double(), y.double()))


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    scale = (x.square().sum(-1) * y.square().sum(-1)).sqrt()
    return torch.where(scale > 0, (x * y).sum(-1) / scale, torch.nan)


@full_precision
def faithfulness_correlation(
    model: VisionTransformer,
    images: Tensor,
    relevance: Tensor,
    target: Tensor | int | None = None,
    subsets: Tensor | np.ndarray | Sequence | None = None,
    protocol: str = "corrected",
    fill: str | float = "mean",
    preprocess: Any = None,
    image_ids: Sequence[str] | None = None,
    seed: int = 0,
    correlation: str = "spearman",
) -> Tensor:
    """Faithfulness Correlation: does the summed relevance of random patches follow the drop when they are filled?

    From Bhatt et al. 2020, *Evaluating and Aggregating Feature-based Model Explanations*: the correlation over the
    runs between the summed relevance of a random subset of patches and the drop of the class's logit when the subset
    is filled. The paper uses Pearson's correlation; the default is Spearman's rank correlation.

    Args:
        model: a timm VisionTransformer; the call does not change it.
        images: normalised float (B, C, H, W), on the model's device.
        relevance: (B, N), patches row by row, such as ``fgg.attribute(…).relevance``.
        target: class per image, int64 (B,), or one for all; None takes the predicted class.
        subsets: int64 (B, runs, k), the patches that are filled together in each run, from 0 to N - 1. None draws 20
            runs of 20 patches, or of a third of the patches where they are fewer than 40, keyed by (seed, image_id).
        protocol: ``corrected``, or ``thesis``, which gives 0 where the sums or the drops are constant. ``paper`` is
            ``corrected``.
        fill: what replaces a patch, one of `fgg.catalogue.FILLS` or a number.
        preprocess: how the images were standardised; the fills ``zero``, ``black`` and ``white`` need it.
        image_ids: names that, together with ``seed``, determine all random draws; None takes the images' numbers.
        seed: see ``image_ids``.
        correlation: ``spearman`` or ``pearson``.

    Returns:
        float64 (B,), from -1 to 1; higher is better. NaN where the sums or the drops are constant, or a
        relevance is NaN; a warning counts them. The score is noisy with few runs: see docs/sampling-error.md.

    Raises:
        FggError: images, relevance or subsets of the wrong shape, fewer than 3 runs, subsets of all patches, beyond the
            patches or with a patch twice, an unknown class, protocol, fill or correlation.
    """
    if not isinstance(correlation, str) or correlation not in CORRELATIONS:
        raise FggError(f"correlation {correlation!r} is unknown; choose from {', '.join(CORRELATIONS)}")
    image_ids = None if image_ids is None else list_of_names(image_ids)
    engine = engine_of(model, images, fill, preprocess, image_ids, seed)
    relevance = check_relevance(engine, relevance)
    chosen = _drawn(engine, image_ids, seed) if subsets is None else check_subsets(engine, subsets)
    drops = responses(engine, chosen, target)
    scores = correlate(relevance, chosen, drops, protocol, CORRELATIONS[correlation])
    reasons = {
        "the fill leaves the image as it is": unchanged(engine),
        "a relevance is not finite": ~relevance.isfinite().all(1),
        "all subsets have the same drop": (drops == drops[:, :1]).all(1),
        "all subsets have the same relevance": torch.ones(len(drops), dtype=torch.bool),
    }
    return tell_undefined("faithfulness_correlation", scores, reasons)


MOST_DRAWN = 2**31
CORRELATIONS = {"spearman": spearman, "pearson": pearson}


def _drawn(engine: Perturber, image_ids: Sequence[str] | None, seed: int) -> Tensor:
    names = [str(number) for number in range(len(engine.images))] if image_ids is None else image_ids
    size = min(20, max(1, engine.patches // 3)) if engine.patches < 40 else 20
    return torch.from_numpy(draw_subsets(names, engine.patches, 1, 20, size, seed)[:, 0])
