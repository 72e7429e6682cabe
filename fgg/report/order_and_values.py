"""Text about the parts of order and values in a gate's gain, and the check that random maps have an SRG of 0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from fgg.comparison.strata import ALL, MEASURABLE
from fgg.faithfulness.measures import Measure
from fgg.report.metrics_shown import measures_in, rows_of

CHECK_QUANTILE = 3.29  # quantile of the normal distribution for a two-sided 99.9 % interval


def order_and_values(decomposition: pd.DataFrame, known: Mapping[str, Measure]) -> Iterator[str]:
    """The parts of order and values in the gain of each gate, for the metrics that read values.

    Args:
        decomposition: the table results/decomposition.csv.
        known: the measures by name.
    """
    own = decomposition[(decomposition["stratum"] == MEASURABLE) & decomposition["gain"].notna()]
    reading = (
        [measure for measure in measures_in(own, known).values() if measure.metric.reads == "values"]
        if len(own)
        else []
    )
    rows = [(measure, row) for measure in reading for _, row in rows_of(own, measure).iterrows()]
    if not rows:
        return
    yield from ("## Order and values", "")
    yield (
        "What the gate's order of the patches and its spread of values give to its gain over TransMM (Shapley values of the two, "
        "in the metric's unit, with 95 % intervals), on measurable images:"
    )
    yield from ("", "| dataset, seed | gate | metric | gain | by order | by values |", "|---|---|---|---|---|---|")
    for measure, row in rows:
        cells = [
            f"{row[name]:+.3f} ({row[f'{name}_low']:+.3f} to {row[f'{name}_high']:+.3f})"
            for name in ("order", "values")
        ]
        yield (
            f"| {row['dataset']}, {row['seed']} | `{row['experiment']}` | {measure.title} | {row['gain']:+.3f} | "
            f"{' | '.join(cells)} |"
        )
    yield ""


def random_srg(frame: pd.DataFrame) -> Iterator[tuple[dict[str, Any], float, bool]]:
    """Rows of the SRG of random maps on all images, the reach of their error (99.9 %), and whether 0 is inside, as it must be.

    Args:
        frame: the comparison's rows.
    """
    rows = frame[(frame["metric"] == "srg") & (frame["experiment"] == "random") & (frame["stratum"] == ALL)]
    for row in rows[rows["sem"].notna()].to_dict("records"):
        reach = float(CHECK_QUANTILE * row["sem"])
        yield row, reach, abs(row["mean"]) <= reach


def random_check(frame: pd.DataFrame) -> Iterator[str]:
    """A check of the metrics on every run: the SRG of random maps must be 0.

    Args:
        frame: the comparison's rows.
    """
    found = list(random_srg(frame))
    if not found:
        return
    yield from ("## Built-in check", "")
    for row, reach, passed in found:
        yield (
            f"- `{row['dataset']}`, seed {row['seed']}, fill {row['fill']}: SRG of random maps {row['mean']:+.4f} ± {reach:.4f} "
            f"(99.9 %): {'0 is inside, as it must be' if passed else '**0 is outside: do not trust this run**'}"
        )
    yield ""
