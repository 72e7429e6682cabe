"""The score of a map's order alone, computed with the baseline's values arranged in the map's order.

A metric that reads values rewards their spread as well as their order: TransMM squared has the same order as TransMM,
but a higher SaCo. A map is therefore called better only if its order is better. The scores are computed from the
tables, without the model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from fgg.faithfulness.measures import Measure
from fgg.tables import matrix, read_settings, read_table


def order_only(place: Path, name: str, baseline: str, measure: Measure, protocol: str) -> pd.Series | None:
    """The scores by image id; None if the metric reads only the order, or if order and values cannot be separated.

    Args:
        place: the folder of a dataset's results.
        name: the experiment.
    """
    found = RESCORED.get(measure.metric.name) if measure.metric.own else None
    return None if found is None else found(place, name, baseline, measure, protocol)


def can_be_told_apart(measure: Measure) -> bool:
    """Whether order and values can be told apart: the metric reads only the order, or `order_only` supports it."""
    return measure.metric.reads == "order" or (measure.metric.own and measure.metric.name in RESCORED)


def _saco(place: Path, name: str, baseline: str, measure: Measure, protocol: str) -> pd.Series:
    """Bins are sorted by relevance, so the drops come from the map and the relevances of the bins from the baseline."""
    import torch

    from fgg.faithfulness.saco import coefficient

    drops, weights = measure.column("saco_bin_drops"), measure.column("saco_bin_relevance")
    own = _by_image(read_table(place / "faithfulness" / f"{name}.parquet", ["image_id", drops]), drops)
    other = _by_image(read_table(place / "faithfulness" / f"{baseline}.parquet", ["image_id", weights]), weights)
    relevance, changes = (torch.from_numpy(frame.to_numpy(np.float64).copy()) for frame in (other, own))
    return pd.Series(coefficient(relevance, changes, protocol)[0].numpy(), index=own.index)


def _correlation(place: Path, name: str, baseline: str, measure: Measure, protocol: str) -> pd.Series:
    import torch

    from fgg.attribution.controls import laid
    from fgg.faithfulness.faithfulness_correlation import correlate, pearson, spearman

    path = place / "responses.parquet"
    table, drawn = read_table(path), read_settings(path)
    ids = table["image_id"].to_pylist()
    own, other = (
        _by_image(read_table(place / "attributions" / f"{each}.parquet", ["image_id", "relevance"]), "relevance").loc[
            ids
        ]
        for each in (name, baseline)
    )
    shape = (len(ids), drawn["trials"], drawn["runs"])
    drops = "drops" if measure.fill == drawn["fills"][0] else f"drops@{measure.fill}"
    relevance = torch.from_numpy(laid(other.to_numpy(np.float32), own.to_numpy(np.float32)))
    subsets = torch.from_numpy(matrix(table, "subsets").copy()).view(*shape, drawn["subset_size"])
    answers = torch.from_numpy(matrix(table, drops).copy()).view(shape)
    kind = pearson if measure.metric.name.endswith("pearson") else spearman
    found = correlate(relevance, subsets, answers, protocol, kind).mean(1)
    return pd.Series(found.numpy(), index=ids).sort_index()


RESCORED: dict[str, Callable[[Path, str, str, Measure, str], pd.Series]] = {
    "saco": _saco,
    "faithfulness_correlation": _correlation,
    "faithfulness_correlation_pearson": _correlation,
}


def _by_image(table: pa.Table, name: str) -> pd.DataFrame:
    return pd.DataFrame(matrix(table, name), index=table["image_id"].to_pylist()).sort_index()
