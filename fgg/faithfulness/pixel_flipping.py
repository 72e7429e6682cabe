"""Pixel Flipping (Bach et al. 2015) on patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import fgg  # for fgg.plot, which is looked up when a curve is shown: a change of the pictures must not rerun the scores
from fgg.errors import FggError
from fgg.faithfulness.adaptive_curves import check_tolerance
from fgg.faithfulness.checks import check_protocol, probability
from fgg.faithfulness.order_curves import OrderCurves, check_step, engine_of, steps
from fgg.faithfulness.registry import metric
from fgg.faithfulness.settings_checks import WHOLE_CURVES
from fgg.models.arguments import full_precision, whole_number
from fgg.models.call_arguments import names_or_numbers
from fgg.models.vit import patch_size
from fgg.perturbation.engine import Perturber

if TYPE_CHECKING:
    import pandas as pd


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
        "area_tolerance": {
            "description": "Measure only the steps that the area needs for an error below this, if the curve is "
            "monotone between them; null or 0 measures all.",
            "type": ["number", "null"], "minimum": 0, "exclusiveMaximum": 1, "default": None,
        },
    },
    columns={
        "pixel_flipping_curve": "probability of the class after each step, the clean image's first",
        "pixel_flipping_measured": "with area_tolerance: which steps are measured; straight lines join them",
    },
    default=True,
    reads="order",
    place=3,
)  # fmt: skip
def pixel_flipping_scores(
    curves: OrderCurves, protocol: str, patches_per_step: int = 1, area_tolerance: float | None = None
) -> dict[str, Tensor]:
    """The area under the curve, the curve, and with a tolerance the steps that are measured."""
    found = from_curves(curves, patches_per_step, protocol, area_tolerance)
    columns = {"pixel_flipping": found.auc, "pixel_flipping_curve": found.curve.float()}
    if area_tolerance:
        columns["pixel_flipping_measured"] = curves.measured("mif", patches_per_step, area_tolerance)
    return columns


@dataclass(repr=False)
class PixelFlipping:
    """Area and curve of Pixel Flipping; lower is better.

    Attributes:
        auc: float64 (B,), area under the curve over the share of steps, from 0 to 1 (``corrected``), or over
            the number of steps (``thesis``). NaN where the relevance is NaN.
        curve: float64 (B, steps + 1), probability of the class, starting with the clean image's.
    """

    auc: Tensor
    curve: Tensor

    def __repr__(self) -> str:
        images, steps = len(self.curve), self.curve.shape[1] - 1
        mean = float(self.auc.nanmean())
        return f"PixelFlipping({images} images, {steps} steps, mean area {mean:.4g}; lower is better)"

    def to_dataframe(self, image_ids: Sequence[str] | None = None) -> pd.DataFrame:
        """A row per image and step: ``image_id``, ``step`` (0 is the clean image), ``probability``, and the image's ``auc``.

        Args:
            image_ids: names of the images; None numbers them.

        Raises:
            FggError: the number of names is not that of the images.
        """
        import pandas as pd

        images, steps = self.curve.shape
        columns = {"image_id": np.repeat(names_or_numbers(image_ids, images), steps)}
        columns["step"] = np.tile(np.arange(steps), images)
        columns["probability"] = self.curve.detach().cpu().flatten().numpy()
        return pd.DataFrame({**columns, "auc": np.repeat(self.auc.detach().cpu().numpy(), steps)})

    def show(self, ax: Any = None, *, title: str | None = None) -> Any:
        """Draw the mean curve of the images on matplotlib axes, and return them; see `fgg.plot.curve`."""
        return fgg.plot.curve(self.curve, ax, title=title or "Pixel Flipping: lower is better")


@full_precision
def pixel_flipping(
    model: VisionTransformer,
    images: Tensor,
    relevance: Tensor,
    target: Tensor | int | None = None,
    patches_per_step: int = 1,
    fill: str | float = "mean",
    protocol: str = "corrected",
    preprocess: Any = None,
    image_ids: Sequence[str] | None = None,
    seed: int = 0,
) -> PixelFlipping:
    """Pixel Flipping: how fast does the class's probability fall when patches are filled, most relevant first?

    From Bach et al. 2015, *On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance
    Propagation*, on patches instead of pixels.

    Args:
        model: a timm VisionTransformer; the call does not change it.
        images: normalised float (B, C, H, W), on the model's device.
        relevance: (B, N), patches row by row; ties are broken by patch index.
        target: class per image, int64 (B,), or one for all; None takes the predicted class.
        patches_per_step: patches filled per step; the last step takes the remaining patches.
        fill: what replaces a patch: ``mean`` of the image over channels and pixels, or another of
            `fgg.catalogue.FILLS`, or a number. Without ``preprocess``, ``black`` is 0 in normalised units.
        protocol: ``corrected`` fills with the clean image's mean. ``thesis`` fills with the mean of the image as
            perturbed so far, and does not divide the area by the number of steps. ``paper`` is ``corrected``.
        preprocess: how the images were standardised, a `fgg.data.preprocess.Preprocess`.
        image_ids: names that, together with ``seed``, determine what ``noise`` and ``road`` draw.
        seed: see ``image_ids``.

    Returns:
        A `PixelFlipping` with ``curve``, float64 (B, steps + 1), the class's probability, starting with the clean
        image's; and ``auc``, float64 (B,), the area under it over the share of steps, from 0 to 1 (``corrected``), or
        over the number of steps (``thesis``); lower is better. NaN where the relevance is NaN.

    Raises:
        FggError: images or relevance of the wrong shape, an unknown class, fill or protocol, fewer than one patch
            per step.
    """
    patches_per_step = whole_number(patches_per_step, "patches_per_step")
    named = "zero_normalised" if fill == "black" and preprocess is None else fill
    engine = engine_of(model, images, named, preprocess, image_ids, seed)
    return from_curves(OrderCurves(engine, relevance, target), patches_per_step, protocol)


def evaluate(
    engine: Perturber,
    relevance: Tensor,
    target: Tensor | int | None = None,
    patches_per_step: int = 1,
    protocol: str = "corrected",
) -> PixelFlipping:
    """`pixel_flipping` of an engine's images, with the engine's fill."""
    return from_curves(OrderCurves(engine, relevance, target), patches_per_step, protocol)


def from_curves(
    curves: OrderCurves, patches_per_step: int, protocol: str, area_tolerance: float | None = None
) -> PixelFlipping:
    """Pixel Flipping from the curves of a batch of maps.

    Raises:
        FggError: an unknown protocol, or a tolerance with the protocol ``thesis``.
    """
    check_protocol(protocol)
    if protocol == "thesis":
        if check_tolerance(area_tolerance):
            raise FggError(f"metrics.pixel_flipping.area_tolerance: {WHOLE_CURVES}")
        patches_per_step = check_step(patches_per_step)
        found = follow(curves.engine, curves.order, curves.target, patches_per_step)
        return PixelFlipping(torch.where(curves.relevance.isnan().any(1), torch.nan, found.auc), found.curve)
    curve = curves.mif(patches_per_step, area_tolerance)
    return PixelFlipping(curves.area(curve), curve)


def follow(engine: Perturber, order: Tensor, chosen: Tensor, patches_per_step: int) -> PixelFlipping:
    """Pixel Flipping as the thesis defines it, in a given order of patches (B, N).

    Patches are filled with the mean of the image as filled so far.
    """
    step_of = steps(order.long(), patches_per_step)
    number = -(-order.shape[1] // patches_per_step)
    masks = step_of[:, None, :] <= torch.arange(number, device=order.device)[:, None]
    running = engine.fill is None or engine.fill.name == "mean"
    values = _running_means(engine, step_of, number).gather(1, step_of) if running else None
    clean, filled = engine.clean[:, None], engine.logits(masks, values)
    curve = torch.cat([probability(clean, chosen), probability(filled, chosen)], dim=1)
    return PixelFlipping(torch.trapezoid(curve, dim=1), curve)


def _running_means(engine: Perturber, step_of: Tensor, steps: int) -> Tensor:
    """The mean of the image before each step, where each earlier step filled with its own mean: float64 (B, steps)."""
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
