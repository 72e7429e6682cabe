"""SRG, the Symmetric Relevance Gain (Blücher et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.faithfulness.adaptive_curves import check_tolerance
from fgg.faithfulness.order_curves import OrderCurves, order_curves
from fgg.faithfulness.registry import metric
from fgg.models.arguments import full_precision, whole_number


@metric(
    name="srg",
    title="SRG",
    citation="Blücher et al. 2024, Decoupling Pixel Flipping and Occlusion Strategy for Consistent XAI Benchmarks",
    higher_is_better=True,
    lowest=-1.0,
    highest=1.0,
    quantity="SRG (−1 to 1)",
    definition="how much longer does the probability last when the least relevant patches are filled first?",
    assumes="only the order of the patches counts; most of what a fill does by itself cancels",
    passes="two per step",
    settings={
        "patches_per_step": {"description": "Patches filled per step.", "type": "integer", "minimum": 1, "default": 5},
        "area_tolerance": {
            "description": "Measure only the steps that the two areas need for an error below this, if the curves are "
            "monotone between them; null or 0 measures all.",
            "type": ["number", "null"],
            "minimum": 0,
            "exclusiveMaximum": 1,
            "default": None,
        },
    },
    default=True,
    reads="order",
    place=4,
)
def srg_scores(curves: OrderCurves, patches_per_step: int = 5, area_tolerance: float | None = None) -> Tensor:
    """LIF - MIF; each of the two areas may have half of the tolerance."""
    tolerance = check_tolerance(area_tolerance)
    each = tolerance and tolerance / 2
    return curves.area(curves.lif(patches_per_step, each)) - curves.area(curves.mif(patches_per_step, each))


@full_precision
def srg(
    model: VisionTransformer,
    images: Tensor,
    relevance: Tensor,
    target: Tensor | int | None = None,
    patches_per_step: int = 1,
    fill: str | float = "mean",
    preprocess: Any = None,
    image_ids: Sequence[str] | None = None,
    seed: int = 0,
) -> Tensor:
    """SRG: the area under p(c) with the least relevant patches filled first, minus that with the most relevant first.

    From Blücher et al. 2024, *Decoupling Pixel Flipping and Occlusion Strategy for Consistent XAI Benchmarks*. The
    part of a fill's effect that does not depend on the order is in both areas, so rankings of methods depend less on
    the fill. The expected score of random relevance is 0.

    Args:
        model: a timm VisionTransformer; the call does not change it.
        images: normalised float (B, C, H, W), on the model's device.
        relevance: (B, N), patches row by row; ties are broken by patch index.
        target: class per image, int64 (B,), or one for all; None takes the predicted class.
        patches_per_step: patches filled per step; the last step takes the remaining patches.
        fill: what replaces a patch, one of `fgg.catalogue.FILLS` or a number.
        preprocess: how the images were standardised; the fills ``zero``, ``black`` and ``white`` need it.
        image_ids: names that, together with ``seed``, determine what ``noise`` and ``road`` draw.
        seed: see ``image_ids``.

    Returns:
        float64 (B,), from -1 to 1; higher is better. NaN where the relevance is NaN.

    Raises:
        FggError: images or relevance of the wrong shape, an unknown class or fill, fewer than one patch per step.
    """
    patches_per_step = whole_number(patches_per_step, "patches_per_step")
    return srg_scores(
        order_curves(model, images, relevance, target, fill, preprocess, image_ids, seed), patches_per_step
    )
