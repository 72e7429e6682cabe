"""The choice of images to look at: ranked by a gate's gains on all metrics, and some at random.

A metric's gain is ``sign * (gated - baseline)`` on the same image, so that positive is better. Gains are
standardised per metric over the images, and an image's composite is the mean of its defined standardised gains.
A composite above 0 therefore means that the image gained more than the average image with this gate, whether the
average is a gain or a loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fgg.data.stratified import keyed_order
from fgg.errors import FggError
from fgg.faithfulness.registry import Metric

CATEGORIES = ("improved", "degraded", "random")
FLOOR = 1e-9  # added to the standard deviation, as in the research code


@dataclass(frozen=True)
class Selection:
    """Image ids per category, in order of rank; ``unranked`` images have no defined gain or are not measurable."""

    chosen: dict[str, list[str]]
    unranked: list[str]


def gains(scores: pd.DataFrame, baseline: pd.DataFrame, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """Gain of every image (rows, by image id) on every metric (columns); NaN where a score is undefined.

    Raises:
        FggError: the two tables hold other images.
    """
    if set(scores.index) != set(baseline.index) or not scores.index.is_unique:
        raise FggError("the scores of the experiment and of the baseline hold other images; run the workflow again")
    reference = baseline.loc[scores.index]
    found = {name: metric.sign * (scores[name] - reference[name]) for name, metric in metrics.items()}
    return pd.DataFrame(found, dtype=np.float64).sort_index()


def composite(gains: pd.DataFrame) -> pd.Series:
    """Mean of each image's defined standardised gains, (n, metrics) to (n,); NaN where none is defined.

    A metric that is defined on fewer than two images has no spread and is left out.
    """
    standardised = (gains - gains.mean()) / (gains.std(ddof=1) + FLOOR)
    return standardised.mean(axis=1, skipna=True)


def select(composites: pd.Series, per_category: int, seed: int) -> Selection:
    """Select the images with the largest and the smallest composite, and as many others by a seeded draw.

    No image is in two categories; if there are few ranked images, the improved and the degraded ones share them. Equal
    composites are ordered by image id. The draw is from all other images, ranked or not; it is the same for all
    experiments with the same other images.

    Args:
        composites: composite by image id; NaN where an image cannot be ranked.
    """
    ranked = composites.dropna().sort_index().sort_values(ascending=False, kind="stable")
    size = min(per_category, len(ranked) // 2)
    improved = list(ranked.index[:size])
    degraded = list(ranked.index[::-1][:size])
    others = set(composites.index) - {*improved, *degraded}
    return Selection(
        dict(zip(CATEGORIES, (improved, degraded, keyed_order(others, seed, "cases")[:per_category]), strict=True)),
        sorted(composites.index[composites.isna()]),
    )


def spread(gains: pd.DataFrame) -> dict[str, dict[str, float | int | None]]:
    """Per metric, the number of defined gains, their mean and their standard deviation (None where undefined)."""
    rows: Sequence[tuple[str, pd.Series]] = [(str(name), column.dropna()) for name, column in gains.items()]
    return {
        name: {"defined": len(own), "mean": _number(own.mean()), "sd": _number(own.std(ddof=1))} for name, own in rows
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
