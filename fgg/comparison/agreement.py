"""How much the metrics agree: ``results/agreement.csv``.

Two metrics agree over methods if the experiments' means give the same order of experiments. They agree over images if
an experiment's gains over the baseline give the same order of images. Both are Spearman's rank correlations; better
scores have higher ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fgg.comparison.compared import Compared
from fgg.faithfulness.measures import Measure
from fgg.statistics.correlation import centred_ranks, correlation, rank_correlation
from fgg.statistics.paired import Row

FEWEST_RANKED = 3


@dataclass(frozen=True)
class _Ranked:
    """What is compared of a measure on some images; higher is better.

    Attributes:
        means: of all experiments.
        gains: of each experiment over the baseline, (experiments - 1, n).
        ranks: `centred_ranks` of each row of gains; None for a row that has NaN or too few values.
    """

    means: np.ndarray
    gains: list[np.ndarray]
    ranks: list[np.ndarray | None]


def agreement(own: Compared) -> Iterator[Row]:
    """A row per pair of measures, on the images that are measurable with both fills, and on all images."""
    names = list(own.measures)
    for stratum in ("measurable", "all"):
        ranked: dict[tuple[str, bytes], _Ranked] = {}
        for place, first in enumerate(names):
            for second in names[place + 1 :]:
                two = [own.measures[name] for name in (first, second)]
                inside = np.ones(len(next(iter(own.scores.values()))), dtype=bool)
                if stratum == "measurable":
                    inside = own.measurable(two[0]) & own.measurable(two[1])
                for measure in two:
                    if (key := (measure.name, inside.tobytes())) not in ranked:
                        ranked[key] = _ranked(own, measure, inside)
                found = [ranked[measure.name, inside.tobytes()] for measure in two]
                yield _pair(own, two, found) | {"n_images": int(inside.sum()), "stratum": stratum}


def _ranked(own: Compared, measure: Measure, inside: np.ndarray) -> _Ranked:
    frame = pd.DataFrame({name: own.values(name, measure.name)[inside] for name in own.experiments})
    frame = measure.metric.sign * frame
    baseline = own.settings["baseline"]
    reference = frame[baseline].to_numpy()
    gains = [frame[name].to_numpy() - reference for name in own.experiments if name != baseline]
    ranks = [None if len(each) < FEWEST_RANKED or np.isnan(each).any() else centred_ranks(each[None]) for each in gains]
    return _Ranked(frame.mean().to_numpy(), gains, ranks)


def _pair(own: Compared, two: list[Measure], found: list[_Ranked]) -> Row:
    means = np.array([each.means for each in found])
    means = means[:, ~np.isnan(means).any(0)]
    over_methods = rank_correlation(means[:1], means[1:])[0] if means.shape[1] >= FEWEST_RANKED else np.nan
    rows = zip(*(each.gains for each in found), *(each.ranks for each in found), strict=True)
    per_method = [_over_images(*row) for row in rows]
    known = [value for value in per_method if not np.isnan(value)]
    return {
        **{key: own.common[key] for key in ("dataset", "seed")},
        **{"first": two[0].metric.name, "first_fill": two[0].fill},
        **{"second": two[1].metric.name, "second_fill": two[1].fill},
        "over_methods": float(over_methods),
        "n_methods": means.shape[1],
        "over_images": float(np.mean(known)) if known else np.nan,
        "n_undefined": len(per_method) - len(known),
    }


def _over_images(
    first: np.ndarray, second: np.ndarray, first_ranks: np.ndarray | None, second_ranks: np.ndarray | None
) -> float:
    """Rank correlation of two vectors where both are defined; NaN if too few values are, or one vector is constant."""
    if first_ranks is not None and second_ranks is not None:
        return float(correlation(first_ranks, second_ranks)[0])
    both = ~(np.isnan(first) | np.isnan(second))
    if both.sum() < FEWEST_RANKED:
        return float("nan")
    return float(rank_correlation(first[None, both], second[None, both])[0])
