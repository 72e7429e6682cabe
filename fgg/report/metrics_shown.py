"""The metrics that a table of the comparison holds, with their titles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fgg.faithfulness.registry import Metric, metrics
from fgg.registry import Declaration

if TYPE_CHECKING:
    import pandas as pd


def metrics_in(frame: pd.DataFrame, known: Mapping[str, Metric] | None = None) -> dict[str, Metric]:
    """The metrics of a frame with the columns ``metric`` and ``higher_is_better``, in its order.

    Args:
        known: metrics of other packages by name; those that are not known are called by their name.
    """
    found = {}
    for name, higher in frame[["metric", "higher_is_better"]].drop_duplicates("metric").itertuples(index=False):
        own = (known or {}).get(name) or metrics().get(name)
        title = str(name).replace("_", " ")
        found[name] = own or Metric(name, title, "", Declaration("", name, {}, (), (), ""), bool(higher))
    return found
