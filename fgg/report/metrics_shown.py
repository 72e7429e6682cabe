"""The metrics that a table of the comparison holds, with their titles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fgg.faithfulness.registry import Metric, metrics
from fgg.registry import Declaration

if TYPE_CHECKING:
    import pandas as pd


def metrics_in(frame: pd.DataFrame, known: Mapping[str, Metric] | None = None) -> dict[str, Metric]:
    """The metrics of a frame with the column ``metric``, and perhaps ``higher_is_better``, in its order.

    Args:
        known: metrics of other packages by name; those that are not known are called by their name.
    """
    found = {}
    for row in frame.drop_duplicates("metric").to_dict("records"):
        name = str(row["metric"])
        own = (known or {}).get(name) or metrics().get(name)
        unknown = Declaration("", name, {}, (), (), "")
        found[name] = own or Metric(name, name.replace("_", " "), "", unknown, bool(row.get("higher_is_better", True)))
    return found
