"""How much the metrics agree: ``results/agreement.csv``.

Two metrics agree over methods if the experiments' means give the same order of experiments. They agree over images if
an experiment's gains over the baseline give the same order of images. Both are Spearman's rank correlations; better
scores have higher ranks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from fgg.comparison.compared import Compared
from fgg.statistics.correlation import rank_correlation
from fgg.statistics.paired import Row

FEWEST_RANKED = 3


def agreement(own: Compared) -> Iterator[Row]:
    """A row per pair of measures, on the images that are measurable with both fills, and on all images."""
    names = list(own.measures)
    for stratum in ("measurable", "all"):
        for place, first in enumerate(names):
            for second in names[place + 1 :]:
                inside = np.ones(len(next(iter(own.scores.values()))), dtype=bool)
                if stratum == "measurable":
                    inside = own.measurable(own.measures[first]) & own.measurable(own.measures[second])
                yield _pair(own, first, second, inside) | {"stratum": stratum}


def _pair(own: Compared, first: str, second: str, inside: np.ndarray) -> Row:
    two = [own.measures[name] for name in (first, second)]
    baseline, others = own.settings["baseline"], [name for name in own.experiments if name != own.settings["baseline"]]
    frames = [pd.DataFrame({name: own.values(name, each.name)[inside] for name in own.experiments}) for each in two]
    frames = [each.metric.sign * frame for each, frame in zip(two, frames, strict=True)]
    means = np.array([frame.mean().to_numpy() for frame in frames])
    means = means[:, ~np.isnan(means).any(0)]
    over_methods = rank_correlation(means[:1], means[1:])[0] if means.shape[1] >= FEWEST_RANKED else np.nan
    gains = [frame[others].sub(frame[baseline], axis=0).to_numpy().T for frame in frames]
    per_method = [_defined(*pair) for pair in zip(*gains, strict=True)]
    known = [value for value in per_method if not np.isnan(value)]
    return {
        **{key: own.common[key] for key in ("dataset", "seed")},
        **{"first": two[0].metric.name, "first_fill": two[0].fill},
        **{"second": two[1].metric.name, "second_fill": two[1].fill},
        "over_methods": float(over_methods),
        "n_methods": means.shape[1],
        "over_images": float(np.mean(known)) if known else np.nan,
        "n_images": int(inside.sum()),
        "n_undefined": len(per_method) - len(known),
    }


def _defined(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation of two vectors where both are defined; NaN if too few values are, or one vector is constant."""
    both = ~(np.isnan(first) | np.isnan(second))
    if both.sum() < FEWEST_RANKED:
        return float("nan")
    return float(rank_correlation(first[None, both], second[None, both])[0])
