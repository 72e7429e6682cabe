"""Pixel Flipping (Bach et al. 2015) on patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.errors import FggError
from fgg.faithfulness.checks import check_protocol, check_relevance, class_of, probability
from fgg.faithfulness.perturbation import Perturber
from fgg.faithfulness.registry import metric
from fgg.models.vit import patch_size


@metric(
    name="pixel_flipping",
    title="Pixel Flipping",
    citation="Bach et al. 2015, On Pixel-Wise Explanations for Non-Linear Classifier Decisions",
    higher_is_better=False,
    lowest=0.0,
    highest=1.0,
    quantity="area under p(class) (0 to 1)",
    definition="how small is the area under the probability while patches are filled, most relevant first?",
    assumes="a filled patch carries no information; only the order of the patches counts",
    passes="one per step",
    settings={
        "patches_per_step": {
            "description": "Patches removed per step.", "type": "integer", "minimum": 1, "default": 1,
        },
    },
    columns={"pixel_flipping_curve": "probability of the class after each step, the clean image's first"},
    default=True,
    place=3,
)  # fmt: skip
def pixel_flipping_scores(
    engine: Perturber, relevance: Tensor, target: Tensor, protocol: str, patches_per_step: int = 1
) -> dict[str, Tensor]:
    """The area under the curve, and the curve."""
    found = evaluate(engine, relevance, target, patches_per_step, protocol=protocol)
    return {"pixel_flipping": found.auc, "pixel_flipping_curve": found.curve.float()}


@dataclass
class PixelFlipping:
    """Area and curve; lower is better.

    Attributes:
        auc: float64 (B,), area under the curve: over the share of steps, 0 to 1 (``corrected``), or over
            their number (``thesis``). NaN where the relevance is.
        curve: float64 (B, steps + 1), probability of the class, the clean image's first.
    """

    auc: Tensor
    curve: Tensor


def pixel_flipping(
    model: VisionTransformer,
    images: Tensor,
    relevance: Tensor,
    target: Tensor | None = None,
    patches_per_step: int = 1,
    fill: str = "mean",
    protocol: str = "corrected",
) -> PixelFlipping:
    """Pixel Flipping: how fast does the class's probability fall when patches are filled, most relevant first?

    From Bach et al. 2015, *On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance
    Propagation*, on patches instead of pixels.

    Args:
        model: a timm VisionTransformer; it leaves the call as it came.
        images: normalised float (B, C, H, W), on the model's device.
        relevance: (B, N), patches row by row; ties go by patch index.
        target: class per image, int64 (B,), or one for all; None takes the predicted class.
        patches_per_step: patches filled per step; the last step takes what is left.
        fill: ``mean`` fills with the mean over channels and pixels, ``black`` with 0 in normalised units.
        protocol: ``corrected`` takes the clean image's mean; ``thesis`` the mean of the image as perturbed so far,
            and does not divide the area by the steps.

    Returns:
        A `PixelFlipping`: ``curve``, float64 (B, steps + 1), the class's probability, the clean image's first; and
        ``auc``, float64 (B,), the area under it over the share of steps, 0 to 1 (``corrected``), or over their
        number (``thesis``); lower is better. NaN where the relevance is.

    Raises:
        FggError: images or relevance of the wrong shape, an unknown class, fill or protocol, fewer than one patch
            per step.
    """
    return evaluate(Perturber(model, images), relevance, target, patches_per_step, fill, protocol)


def evaluate(
    engine: Perturber,
    relevance: Tensor,
    target: Tensor | None = None,
    patches_per_step: int = 1,
    fill: str = "mean",
    protocol: str = "corrected",
) -> PixelFlipping:
    """How fast does the class's probability fall when patches are filled, most relevant first?

    Args:
        relevance: (B, N); ties go by patch index.
        target: int64 (B,); None takes the predicted class.
        patches_per_step: patches filled per step; the last step takes what is left.
        fill: ``mean`` fills with the mean over channels and pixels, ``black`` with 0 in normalised units.
        protocol: ``corrected`` takes the clean image's mean; ``thesis`` the mean of the image as perturbed
            so far, and does not divide the area by the steps.

    Raises:
        FggError: relevance of the wrong shape, an unknown fill or protocol.
    """
    check_protocol(protocol)
    if fill not in ("mean", "black"):
        raise FggError(f"fill {fill!r} is unknown; choose 'mean' or 'black'")
    if patches_per_step < 1:
        raise FggError(f"patches_per_step: {patches_per_step} must be at least 1")
    relevance = check_relevance(engine, relevance)
    order = relevance.argsort(dim=-1, descending=True, stable=True)
    return follow(engine, order, class_of(engine, target), patches_per_step, fill, protocol, relevance)


def follow(
    engine: Perturber,
    order: Tensor,
    chosen: Tensor,
    patches_per_step: int,
    fill: str,
    protocol: str,
    relevance: Tensor | None = None,
) -> PixelFlipping:
    """Pixel Flipping in a given order of patches (B, N)."""
    patches = order.shape[1]
    order = order.long()
    steps = -(-patches // patches_per_step)
    step_of = torch.empty_like(order).scatter_(
        1, order, (torch.arange(patches, device=order.device) // patches_per_step).expand_as(order)
    )
    masks = step_of[:, None, :] <= torch.arange(steps, device=order.device)[:, None]
    if fill == "black":
        values = torch.zeros_like(engine.mean)
    elif protocol == "thesis":
        values = _running_means(engine, step_of, steps).gather(1, step_of)
    else:
        values = engine.mean
    curve = torch.cat(
        [probability(engine.clean[:, None], chosen), probability(engine.logits(masks, values), chosen)], dim=1
    )
    area = torch.trapezoid(curve, dim=1)
    if relevance is not None:
        area = torch.where(relevance.isnan().any(1), torch.nan, area)
    return PixelFlipping(area if protocol == "thesis" else area / steps, curve)


def _running_means(engine: Perturber, step_of: Tensor, steps: int) -> Tensor:
    """The mean of the image before each step, when earlier steps filled with theirs: float64 (B, steps)."""
    height, width = patch_size(engine.model)
    images = engine.images.double()
    patch_sums = images.unfold(2, height, height).unfold(3, width, width).sum((1, 4, 5)).flatten(1)
    pixels = images[0].numel()
    per_patch = images.shape[1] * height * width
    removed = torch.zeros(len(images), steps, dtype=torch.float64, device=images.device)
    removed.scatter_add_(1, step_of, patch_sums)
    sizes = torch.zeros_like(removed).scatter_add_(1, step_of, torch.full_like(patch_sums, per_patch))
    total = images.sum((1, 2, 3))
    means = []
    for step in range(steps):
        means.append(total / pixels)
        total = total - removed[:, step] + means[-1] * sizes[:, step]
    return torch.stack(means, dim=1)
