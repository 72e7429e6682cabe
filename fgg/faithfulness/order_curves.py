"""The class's probability while patches are filled, most relevant first (MIF) or least relevant first (LIF).

Pixel Flipping, SRG, insertion and deletion all read these curves, so each is computed once per image, fill and order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import fgg  # for fgg.plot, which is looked up when a curve is shown: a change of the pictures must not rerun the scores
from fgg.data.preprocess import Preprocess
from fgg.errors import FggError
from fgg.faithfulness.adaptive_curves import Curve, check_tolerance
from fgg.faithfulness.checks import check_relevance, class_of, probability
from fgg.faithfulness.measured_steps import MeasuredSteps
from fgg.models.arguments import full_precision, whole_number, without_autocast
from fgg.models.call_arguments import names_or_numbers, seed_number
from fgg.models.vit import patch_size
from fgg.perturbation.engine import Perturber
from fgg.perturbation.fills import channel_values, make_fill

if TYPE_CHECKING:
    import pandas as pd


class OrderCurves:
    """The curves of a batch of maps, computed when they are first needed.

    Args:
        engine: an engine of the images, with the fill.
        relevance: (B, N); ties are broken by patch index in MIF. LIF is the reverse order.
        target: class whose probability is read, int64 (B,), or one for all; None takes the predicted class.
        precise: whether a caller's torch.autocast is switched off while curves are computed.

    Raises:
        FggError: relevance of the wrong shape, or an unknown class.
    """

    def __init__(
        self, engine: Perturber, relevance: Tensor, target: Tensor | int | None = None, precise: bool = False
    ) -> None:
        self.engine = engine
        self.precise = precise
        self.relevance = check_relevance(engine, relevance)
        self.target = class_of(engine, target)
        self.order = self.relevance.argsort(dim=-1, descending=True, stable=True)
        self._known: dict[tuple[str, int, float | None], Curve] = {}
        self._steps = MeasuredSteps(engine, self.order, self.target)

    def mif(self, patches_per_step: int, area_tolerance: float | None = None) -> Tensor:
        """The curve with the most relevant patches filled first: float64 (B, steps + 1).

        It starts with the clean image's probability. The last step takes the remaining patches.

        Args:
            area_tolerance: the error of the area that may come from steps that are not measured; the curve is straight
                between measured steps (`fgg.faithfulness.adaptive_curves`, which says when the error stays below it).
                None measures every step.
        """
        return self._curve("mif", patches_per_step, area_tolerance).probability

    def lif(self, patches_per_step: int, area_tolerance: float | None = None) -> Tensor:
        """The curve with the least relevant patches filled first, in the form of `mif`."""
        return self._curve("lif", patches_per_step, area_tolerance).probability

    def insertion(self, patches_per_step: int, area_tolerance: float | None = None) -> Tensor:
        """The curve from the filled image to the clean one, with the most relevant patches restored first.

        It has the form of `mif` and starts with the filled image's probability.
        """
        if self.engine.patches % check_step(patches_per_step) == 0:
            return self.lif(patches_per_step, area_tolerance).flip(1)
        return self._curve("insertion", patches_per_step, area_tolerance).probability

    def measured(self, kind: str, patches_per_step: int, area_tolerance: float | None = None) -> Tensor:
        """Which steps of the curve ``mif`` or ``lif`` are measured, bool (B, steps + 1); straight lines join them."""
        return self._curve(kind, patches_per_step, area_tolerance).measured

    def rows(self, number: int) -> Iterator[dict[str, Any]]:
        """The curves of an image that have been computed so far, as rows of a table.

        Curves of the same steps with several tolerances are one, with all that was measured.
        """
        for kind, patches_per_step in dict.fromkeys(known[:2] for known in self._known):
            curve = self._known.get((kind, patches_per_step, None)) or self._steps.curve(kind, patches_per_step)
            yield {
                "curve": kind,
                "patches_per_step": patches_per_step,
                "probability": curve.probability[number].tolist(),
                "measured": curve.measured[number].tolist(),
            }

    def area(self, curve: Tensor) -> Tensor:
        """The area under a curve over the share of steps, float64 (B,); NaN where the relevance is NaN.

        Steps at which the model has no input left are not counted.
        """
        curve = curve[:, ~curve.isnan().all(0)] if len(curve) else curve
        area = torch.trapezoid(curve, dim=1) / (curve.shape[1] - 1)
        return torch.where(self.relevance.isnan().any(1), torch.nan, area)

    def __repr__(self) -> str:
        known = ", ".join(dict.fromkeys(f"{kind} in steps of {step}" for kind, step, _ in self._known)) or "none"
        return f"OrderCurves({len(self.relevance)} images, {self.engine.patches} patches; computed so far: {known})"

    def to_dataframe(self, patches_per_step: int = 1, image_ids: Sequence[str] | None = None) -> pd.DataFrame:
        """The curves MIF and LIF, computed if they are not known: a row per image, curve and step.

        Args:
            patches_per_step: patches filled per step.
            image_ids: names of the images; None numbers them.

        Returns:
            Columns ``image_id``, ``curve`` (``mif`` or ``lif``), ``filled`` (patches filled so far) and ``probability``.

        Raises:
            FggError: the number of names is not that of the images, or fewer than one patch per step.
        """
        import pandas as pd

        names = names_or_numbers(image_ids, len(self.relevance))
        parts = []
        for kind in ("mif", "lif"):
            values = self._curve(kind, patches_per_step).probability
            steps = values.shape[1]
            filled = np.minimum(np.arange(steps) * patches_per_step, self.engine.patches)
            places = {"image_id": np.repeat(names, steps), "curve": kind, "filled": np.tile(filled, len(names))}
            parts.append(pd.DataFrame({**places, "probability": values.detach().cpu().flatten().numpy()}))
        return pd.concat(parts, ignore_index=True)

    def show(self, patches_per_step: int = 1, ax: Any = None, *, title: str | None = None) -> Any:
        """Draw the mean curves MIF and LIF on matplotlib axes, and return them; the area between them is the SRG."""
        curves = {
            "most relevant first": self.mif(patches_per_step),
            "least relevant first": self.lif(patches_per_step),
        }
        ax = fgg.plot.curve(curves, ax, title=title or "A larger area between the curves is better")
        ax.set_xlabel("patches filled (%)")
        return ax

    def _curve(self, kind: str, patches_per_step: int, area_tolerance: float | None = None) -> Curve:
        patches_per_step, tolerance = check_step(patches_per_step), check_tolerance(area_tolerance)
        name = kind, patches_per_step, tolerance
        if name not in self._known:
            with without_autocast() if self.precise else contextlib.nullcontext():
                if tolerance is None:
                    self._known[name] = self._whole(kind, patches_per_step)
                else:
                    self._known[name] = self._steps.follow(kind, patches_per_step, tolerance)
        return self._known[name]

    def _whole(self, kind: str, patches_per_step: int) -> Curve:
        step_of = steps(self.order.flip(1) if kind == "lif" else self.order, patches_per_step)
        at = torch.arange(-(-self.engine.patches // patches_per_step), device=step_of.device)[:, None]
        masks = step_of[:, None, :] >= at if kind == "insertion" else step_of[:, None, :] <= at
        found = probability(self.engine.logits(masks), self.target)
        clean = probability(self.engine.clean[:, None], self.target)
        curve = torch.cat([found, clean] if kind == "insertion" else [clean, found], dim=1)
        self._steps.keep(kind, patches_per_step, curve)
        return Curve(curve, torch.ones_like(curve, dtype=torch.bool))


def check_step(patches_per_step: int) -> int:
    """The patches per step. Raises FggError for anything but a whole number, at least one."""
    return whole_number(patches_per_step, "patches_per_step")


def steps(order: Tensor, patches_per_step: int) -> Tensor:
    """The step in which each patch is filled, counted from 0: int64 (B, N), from the order of filling (B, N)."""
    number = torch.arange(order.shape[1], device=order.device) // patches_per_step
    return torch.empty_like(order).scatter_(1, order, number.expand_as(order))


@full_precision
def order_curves(
    model: VisionTransformer,
    images: Tensor,
    relevance: Tensor,
    target: Tensor | int | None = None,
    fill: str | float = "mean",
    preprocess: Any = None,
    image_ids: Sequence[str] | None = None,
    seed: int = 0,
) -> OrderCurves:
    """The class's probability while patches are filled in the order of a map, and in the reverse order.

    Args:
        model: a timm VisionTransformer; the call does not change it.
        images: normalised float (B, C, H, W), on the model's device.
        relevance: (B, N), patches row by row; ties are broken by patch index.
        target: class per image, int64 (B,), or one for all; None takes the predicted class.
        fill: what replaces a patch, one of `fgg.catalogue.FILLS` or a number.
        preprocess: how the images were standardised; the fills ``zero``, ``black`` and ``white`` need it.
        image_ids: names that, together with ``seed``, determine what ``noise`` and ``road`` draw.
        seed: see ``image_ids``.

    Returns:
        An `OrderCurves`. Its methods ``mif(patches_per_step)``, ``lif(…)`` and ``insertion(…)`` return curves, float64
        (B, steps + 1); with ``area_tolerance=…`` they measure only the steps that the area needs.

    Raises:
        FggError: images or relevance of the wrong shape, an unknown class or fill.
    """
    return OrderCurves(engine_of(model, images, fill, preprocess, image_ids, seed), relevance, target, precise=True)


def check_fill(fill: Any, preprocess: Any, images: Any) -> None:
    """Raise FggError for a number beyond float32, and for a preprocessing that is none, or is not that of the images."""
    if not isinstance(fill, str) and isinstance(fill, Real) and abs(fill) > torch.finfo(torch.float32).max:
        raise FggError(f"fill: {fill!r} is beyond the range of float32; give a number in the units of the images")
    if preprocess is None:
        return
    if not isinstance(preprocess, Preprocess):
        raise FggError(f"preprocess is a {type(preprocess).__name__}; give the fgg.Preprocess that made the images")
    if isinstance(images, Tensor) and images.ndim == 4 and images.shape[1] != preprocess.n_channels:
        raise FggError(
            f"preprocess gives {preprocess.n_channels} channels, but the images have {images.shape[1]}; give the "
            "fgg.Preprocess that made them"
        )


def engine_of(
    model: VisionTransformer,
    images: Tensor,
    fill: str | float,
    preprocess: Any = None,
    image_ids: Sequence[str] | None = None,
    seed: int = 0,
) -> Perturber:
    """An engine with a fill, for calls from outside the workflow.

    Args:
        preprocess: a `fgg.data.preprocess.Preprocess`, which ``zero``, ``black`` and ``white`` need.
        image_ids: names that, together with ``seed``, determine what ``noise`` and ``road`` draw; None takes the
            images' numbers.

    Raises:
        FggError: images of the wrong shape, or an unknown fill.
    """
    check_fill(fill, preprocess, images)
    engine = Perturber(model, images)
    names = names_or_numbers(image_ids, len(images))
    channels, seed = None if preprocess is None else channel_values(preprocess), seed_number(seed)
    return engine.using(make_fill(fill, engine.images, patch_size(model), channels, names, seed))
