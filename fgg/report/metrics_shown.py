"""The measures that a table of the comparison holds, with their titles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fgg.experiments import TRANSMM
from fgg.faithfulness.measures import Measure
from fgg.faithfulness.registry import Metric, localising, metrics
from fgg.registry import Declaration

if TYPE_CHECKING:
    import pandas as pd

MOST_LINES, FEWEST_METHODS = 12, 4
MOST = 5  # metrics that a figure with a panel per metric has room for
ONE_OF_ALIKE = "average_precision"  # the only metric against a mask that is drawn: the others say much the same


def measures_in(frame: pd.DataFrame, known: Mapping[str, Measure] | None = None) -> dict[str, Measure]:
    """The measures of a frame by name, in the order of its rows.

    Args:
        frame: has the columns ``metric``, ``fill`` and perhaps ``higher_is_better``.
        known: measures by name, such as those of metrics of other packages; unknown measures get their metric's name as
            title.
    """
    pairs = frame.drop_duplicates(["metric", "fill"]).fillna({"fill": ""})
    fills: dict[str, list[str]] = {}
    for row in pairs.to_dict("records"):
        fills.setdefault(str(row["metric"]), []).append(str(row["fill"]))
    direction = {str(row["metric"]): bool(row.get("higher_is_better", True)) for row in pairs.to_dict("records")}
    titles = {measure.metric.name: measure.metric for measure in (known or {}).values()}
    found = {}
    for name, own in fills.items():
        unknown = Metric(name, name.replace("_", " "), "", Declaration("", name, {}, (), (), ""), direction[name])
        metric = titles.get(name) or metrics().get(name) or unknown
        for place, fill in enumerate(own):
            measure = Measure(metric, fill, f"@{fill}" if place else "", len(own) < 2)
            found[measure.name] = measure
    return found


def rows_of(frame: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """The rows of a measure."""
    return frame[(frame["metric"] == measure.metric.name) & (frame["fill"].fillna("") == measure.fill)]


def first_fills(measures: Mapping[str, Measure]) -> dict[str, Measure]:
    """The measure of each metric with its first fill."""
    return {name: measure for name, measure in measures.items() if not measure.suffix}


def uncrowded(rows: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """The rows for a figure with a line per map: without controls, and if there are more than `MOST_LINES`, a choice.

    The choice: the baseline, the floor, the best methods by the measure, and TransMM's gates by activation x gradient.

    Args:
        rows: one row per experiment, by this measure.
    """
    maps = rows["control"].isna() & ~rows["shuffle_decoder"].eq(True)
    ungated, gates = maps & rows["construction"].isna(), maps & rows["construction"].eq("combined")
    if (ungated | gates).sum() <= MOST_LINES:
        return rows
    own = gates & rows["method"].eq(TRANSMM)
    rest = rows[ungated & rows["role"].eq("method") & (rows["experiment"] != rows["baseline"])]
    best = rest.loc[
        (measure.metric.sign * rest["mean"]).sort_values(ascending=False, kind="stable").index, "experiment"
    ]
    room = MOST_LINES - int(own.sum()) - 2
    kept = [*best[: max(room, FEWEST_METHODS)], *rows.loc[own | (ungated & rows["role"].eq("floor")), "experiment"]]
    return rows[rows["experiment"].isin([*kept, rows["baseline"].iloc[0]])]


def for_panels(metrics: Mapping[str, Metric]) -> list[str]:
    """The names of the metrics in figures with a panel per metric: at most `MOST`, and one of those against a mask."""
    kept = [name for name in metrics if name not in localising() or name == ONE_OF_ALIKE] or list(metrics)
    last = [name for name in kept if name == ONE_OF_ALIKE]
    return [name for name in kept if name not in last][: MOST - len(last)] + last
