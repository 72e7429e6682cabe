"""Deletion (Petsiuk et al. 2018) on patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.faithfulness.order_curves import OrderCurves, order_curves
from fgg.faithfulness.registry import metric
from fgg.models.arguments import full_precision, whole_number


@metric(
    name="deletion",
    title="Deletion",
    citation="Petsiuk et al. 2018, RISE: Randomized Input Sampling for Explanation of Black-box Models",
    higher_is_better=False,
    lowest=0.0,
    highest=1.0,
    quantity="area under p(class) (0 to 1)",
    definition="how small is the area under the probability while patches are filled, most relevant first?",
    assumes="a filled patch carries no information; only the order of the patches counts",
    passes="one per step",
    settings={
        "patches_per_step": {"description": "Patches filled per step.", "type": "integer", "minimum": 1, "default": 5},
        "area_tolerance": {
            "description": "Measure only the steps that the area needs for an error below this, if the curve is "
            "monotone between them; null or 0 measures all.",
            "type": ["number", "null"],
            "minimum": 0,
            "exclusiveMaximum": 1,
            "default": None,
        },
    },
    reads="order",
    place=42,
)
def deletion_scores(curves: OrderCurves, patches_per_step: int = 5, area_tolerance: float | None = None) -> Tensor:
    """The area under the MIF curve."""
    return curves.area(curves.mif(patches_per_step, area_tolerance))


@full_precision
def deletion(
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
    """Deletion: how fast does p(c) fall when patches are filled, most relevant first?

    From Petsiuk et al. 2018, *RISE*, on patches: the same as `fgg.pixel_flipping` with equal steps and fill. Both names
    are kept because both are in use.

    Args:
        model: a timm VisionTransformer; the call does not change it.
        images: normalised float (B, C, H, W), on the model's device.
        relevance: (B, N), patches row by row; ties are broken by patch index.
        target: class per image, int64 (B,), or one for all; None takes the predicted class.
        patches_per_step: patches filled per step; the last step takes the remaining patches.
        fill: what replaces a patch, one of `fgg.catalogue.FILLS` or a number; the paper uses ``zero_normalised``.
        preprocess: how the images were standardised; the fills ``zero``, ``black`` and ``white`` need it.
        image_ids: names that, together with ``seed``, determine what ``noise`` and ``road`` draw.
        seed: see ``image_ids``.

    Returns:
        float64 (B,), the area over the share of steps, 0 to 1; lower is better. NaN where the relevance is NaN.

    Raises:
        FggError: images or relevance of the wrong shape, an unknown class or fill, fewer than one patch per step.
    """
    patches_per_step = whole_number(patches_per_step, "patches_per_step")
    curves = order_curves(model, images, relevance, target, fill, preprocess, image_ids, seed)
    return deletion_scores(curves, patches_per_step)
