"""SaCo, the Salience-guided Faithfulness Coefficient (Wu et al. 2024, Algorithm 1), in three definitions.

============== ========================= ========================= =========================
protocol       corrected                 thesis                    paper
============== ========================= ========================= =========================
class          the target                the largest, of each      the predicted
bins           equal, about 4 patches    about 4 patches           10
equal drops    count for neither side    agree                     agree
undefined      NaN                       0                         NaN
============== ========================= ========================= =========================

The relevance of a bin is the sum over its patches. If bins have unequal sizes, the score therefore depends on a
constant added to the map; ``weigh: mean`` takes the mean instead. The score rewards the spread of the values as well as
their order; ``ranks`` replaces the relevance of each patch by its rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.errors import FggError
from fgg.faithfulness.checks import (
    check_protocol,
    check_relevance,
    class_of,
    mean_ranks,
    probability,
    tell_undefined,
    unchanged,
)
from fgg.faithfulness.order_curves import engine_of
from fgg.faithfulness.registry import metric
from fgg.faithfulness.settings_checks import PATCHES_PER_BIN, bins_fault, number_of_bins
from fgg.models.arguments import full_precision, whole_number
from fgg.perturbation.engine import Perturber

WEIGHTS = ("total", "mean")


@metric(
    name="saco",
    title="SaCo",
    citation="Wu et al. 2024, On the Faithfulness of Vision Transformer Explanations",
    higher_is_better=True,
    lowest=-1.0,
    highest=1.0,
    quantity="SaCo (−1 to 1)",
    definition="do more relevant bins of patches cause larger drops of the probability?",
    assumes="bins act on the probability one at a time; differences of relevance mean something, not only its order",
    passes="one per bin",
    settings={
        "patches_per_bin": {
            "description": "Patches per bin, or as near to it as bins of equal size allow; ignored when `bins` is given.",
            "type": "integer", "minimum": 1, "default": 4,
        },
        "bins": {
            "description": "Number of bins; null derives it from patches_per_bin, and is 10 under the protocol paper.",
            "type": ["integer", "null"], "minimum": 2, "default": None,
        },
        "ranks": {
            "description": "Weigh pairs by the ranks of the patches, so that only the order of a map counts.",
            "type": "boolean", "default": False,
        },
        "weigh": {
            "description": "A bin's relevance is the `total` of its patches', or their `mean`, which bins of unequal size "
            "need if a constant added to a map is not to change the score.",
            "enum": ["total", "mean"], "default": "total",
        },
    },
    columns={
        "saco_equal_drops": "pairs of bins with equal drops",
        "saco_bin_drops": "drop of the probability when each bin is filled, the most relevant bin's first",
        "saco_bin_relevance": "what each bin weighs",
    },
    default=True,
    place=1,
)  # fmt: skip
def saco_scores(
    engine: Perturber,
    relevance: Tensor,
    target: Tensor,
    protocol: str,
    patches_per_bin: int = PATCHES_PER_BIN,
    bins: int | None = None,
    ranks: bool = False,
    weigh: str = "total",
) -> dict[str, Tensor]:
    """SaCo of a batch, the drops and relevances of the bins, and the number of pairs with equal drops."""
    bins = number_of_bins(engine.patches, patches_per_bin, bins, protocol)
    found = evaluate(engine, relevance, target, bins, protocol, ranks, weigh)
    return {
        "saco": found.score,
        "saco_equal_drops": found.equal_drops,
        "saco_bin_drops": found.drops,
        "saco_bin_relevance": found.totals,
    }


@dataclass
class Saco:
    """SaCo and what it is computed from. K bins, most relevant first.

    Attributes:
        score: float64 (B,), -1 to 1, higher is better. NaN where all bins have the same relevance, a patch's
            relevance is NaN, or the fill leaves the image as it is.
        drops: float64 (B, K), drop in probability when the bin is filled.
        totals: float64 (B, K), relevance of the bins.
        equal_drops: int64 (B,), number of pairs of bins with equal drops.
    """

    score: Tensor
    drops: Tensor
    totals: Tensor
    equal_drops: Tensor


@full_precision
def saco(
    model: VisionTransformer,
    images: Tensor,
    relevance: Tensor,
    target: Tensor | int | None = None,
    bins: int | None = None,
    protocol: str = "corrected",
    fill: str | float = "mean",
    ranks: bool = False,
    weigh: str = "total",
    preprocess: Any = None,
    image_ids: Sequence[str] | None = None,
    seed: int = 0,
) -> Tensor:
    """SaCo, the Salience-guided Faithfulness Coefficient: do the more relevant patches cause the larger drops?

    From Wu et al. 2024, *On the Faithfulness of Vision Transformer Explanations*, Algorithm 1. Patches are sorted by
    relevance (stable, descending) and split into K near-equal bins, larger ones first. Each bin is filled alone; its
    drop is p(c | image) - p(c | filled), a difference of probabilities. The weight of a pair of bins is the difference
    of their summed relevances. It is positive if the drops have the same order as the relevances, negative if they have
    the opposite order, and 0 if the drops are equal. The score is the sum of these signed weights divided by the sum of
    the absolute differences over all pairs.

    Args:
        model: a timm VisionTransformer; the call does not change it.
        images: normalised float (B, C, H, W), on the model's device.
        relevance: (B, N), patches row by row, such as ``fgg.attribute(…).relevance``.
        target: class c per image, int64 (B,), or one for all; None takes the predicted class.
        bins: K, from 2 to N; None makes bins of equal size, as close to four patches as possible (``paper``: 10 bins).
        protocol: ``corrected``; ``thesis``: the drop is that of the largest probability, whichever class it belongs to,
            equal drops count as agreement, and an undefined score is 0; or ``paper``: the predicted class is used
            whatever the target, and equal drops count as agreement.
        fill: what replaces a patch, one of `fgg.catalogue.FILLS` or a number.
        ranks: replace the relevance of each patch by its rank (ties get their mean rank), so that only the order
            counts.
        weigh: whether the relevance of a bin is the ``total`` or the ``mean`` over its patches. They differ where bins
            have unequal sizes; then only the mean makes the score independent of a constant added to the map.
        preprocess: how the images were standardised; the fills ``zero``, ``black`` and ``white`` need it.
        image_ids: names that, together with ``seed``, determine what ``noise`` and ``road`` draw.
        seed: see ``image_ids``.

    Returns:
        float64 (B,), from -1 to 1; higher is better. NaN where all bins have the same relevance, a patch's relevance is
        NaN, or the fill leaves the image as it is, such as the mean in an image of one colour; a warning counts them.

    Raises:
        FggError: images or relevance of the wrong shape, an unknown class or fill, too few or too many bins, an
            unknown protocol.
    """
    if bins is not None:
        bins = whole_number(bins, "bins", least=None)
    if not isinstance(ranks, bool):
        raise FggError(f"ranks: {ranks!r} must be True or False")
    engine = engine_of(model, images, fill, preprocess, image_ids, seed)
    found = evaluate(engine, relevance, target, bins, protocol, ranks, weigh)
    reasons = {
        "the fill leaves the image as it is": unchanged(engine),
        "a relevance is not finite": ~found.totals.isfinite().all(1),
        "all bins have the same relevance": (found.totals == found.totals[:, :1]).all(1),
    }
    return tell_undefined("saco", found.score, reasons)


def evaluate(
    engine: Perturber,
    relevance: Tensor,
    target: Tensor | int | None = None,
    bins: int | None = None,
    protocol: str = "corrected",
    ranks: bool = False,
    weigh: str = "total",
) -> Saco:
    """SaCo of an engine's images, with the engine's fill. See `saco` for the arguments and the errors raised."""
    check_protocol(protocol)
    if weigh not in WEIGHTS:
        raise FggError(f"metrics.saco: weigh {weigh!r} is unknown; choose from {', '.join(WEIGHTS)}")
    relevance = check_relevance(engine, relevance)
    patches = relevance.shape[1]
    bins = number_of_bins(patches, PATCHES_PER_BIN, bins, protocol)
    if fault := bins_fault(bins, patches, protocol):
        raise FggError(f"metrics.saco: {fault}")
    order = relevance.argsort(dim=-1, descending=True, stable=True)
    if ranks:
        relevance = mean_ranks(relevance)
    return score_bins(engine, relevance, membership(order, bins), bins, target, protocol, weigh)


def membership(order: Tensor, bins: int) -> Tensor:
    """The bin of each patch, int64 (B, N), for patches in descending order (B, N)."""
    patches = order.shape[1]
    small, larger = divmod(patches, bins)
    sizes = torch.full((bins,), small, device=order.device)
    sizes[:larger] += 1
    labels = torch.repeat_interleave(torch.arange(bins, device=order.device), sizes)
    return torch.empty_like(order).scatter_(1, order, labels.expand_as(order))


def score_bins(
    engine: Perturber,
    relevance: Tensor,
    bin_of: Tensor,
    bins: int,
    target: Tensor | int | None,
    protocol: str,
    weigh: str = "total",
) -> Saco:
    """SaCo for given bins: bin_of is int64 (B, N), from 0 to bins - 1; bin 0 is the most relevant."""
    masks = bin_of[:, None, :] == torch.arange(bins, device=bin_of.device)[:, None]
    clean, filled = engine.clean[:, None], engine.logits(masks)
    if protocol == "thesis":
        drops = clean.double().softmax(-1).amax(-1) - filled.double().softmax(-1).amax(-1)
    else:
        chosen = class_of(engine, None if protocol == "paper" else target)
        drops = probability(clean, chosen) - probability(filled, chosen)
    same = unchanged(engine)
    drops = torch.where(same[:, None], 0.0, drops)
    totals = torch.zeros(bin_of.shape[0], bins, dtype=torch.float64, device=bin_of.device)
    totals.scatter_add_(1, bin_of, relevance.double())
    if weigh == "mean":
        totals = totals / masks.sum(-1)
    score, equal = coefficient(totals, drops, protocol)
    if protocol != "thesis":
        score = torch.where(same, torch.nan, score)
    return Saco(score, drops, totals, equal)


def coefficient(totals: Tensor, drops: Tensor, protocol: str = "corrected") -> tuple[Tensor, Tensor]:
    """SaCo from the relevances and drops of the bins (B, K), and the number of pairs with equal drops (B,)."""
    first, second = torch.triu_indices(drops.shape[1], drops.shape[1], 1, device=drops.device)
    weight = totals[:, first] - totals[:, second]
    change = drops[:, first] - drops[:, second]
    if protocol == "thesis":
        signed = weight.abs() * torch.where(change >= 0, 1.0, -1.0)
    elif protocol == "paper":
        signed = weight * torch.where(change >= 0, 1.0, -1.0)
    else:
        signed = weight * change.sign()
    total = weight.abs().sum(1)
    score = torch.where(total > 0, signed.sum(1) / total, torch.nan)
    if protocol == "thesis":
        score = score.nan_to_num(nan=0.0)  # what the research code reports
    return score, (change == 0).sum(1)
