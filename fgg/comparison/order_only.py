"""The score of a map's order alone, computed with the baseline's values arranged in the map's order.

A metric that reads values rewards their spread as well as their order: TransMM squared has the same order as TransMM,
but a higher SaCo. A map is therefore called better only if its order is better. The scores are computed from the
tables, without the model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fgg.faithfulness.measures import Measure
from fgg.tables import matrix, read_settings, read_table

TOGETHER = 1000  # images whose pairs of bins or subsets are in memory at once
KEPT = 5  # the responses, their ranks, a map, its partner, and the baseline, which is the partner of most


class Reader:
    """Reads the columns of a dataset's tables, and keeps those that were used last.

    Args:
        place: the folder of a dataset's results.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._kept: dict[tuple[str, ...], Any] = {}

    def by_image(self, table: str, column: str) -> pd.DataFrame:
        """A column of lists (n, k), a row per image, sorted by image id."""
        return self.keep((table, column), lambda: self._by_image(table, column))

    def keep(self, key: tuple[str, ...], make: Callable[[], Any]) -> Any:
        """What is kept under a key; made, and kept instead of what was not used for longest, if nothing is."""
        found = self._kept.pop(key) if key in self._kept else make()
        self._kept[key] = found
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return found

    def _by_image(self, table: str, column: str) -> pd.DataFrame:
        found = read_table(self.place / f"{table}.parquet", ["image_id", column])
        return pd.DataFrame(matrix(found, column), index=found["image_id"].to_pylist()).sort_index()


def order_only(
    place: Path, name: str, baseline: str, measure: Measure, protocol: str, reader: Reader | None = None
) -> pd.Series | None:
    """The scores by image id; None if the metric reads only the order, or if order and values cannot be separated.

    Args:
        place: the folder of a dataset's results.
        name: the experiment.
        reader: of the dataset's tables, if several experiments are scored.
    """
    found = RESCORED.get(measure.metric.name) if measure.metric.own else None
    return None if found is None else found(reader or Reader(place), name, baseline, measure, protocol)


def can_be_told_apart(measure: Measure) -> bool:
    """Whether order and values can be told apart: the metric reads only the order, or `order_only` supports it."""
    return measure.metric.reads == "order" or (measure.metric.own and measure.metric.name in RESCORED)


def _saco(reader: Reader, name: str, baseline: str, measure: Measure, protocol: str) -> pd.Series:
    """Bins are sorted by relevance, so the drops come from the map and the relevances of the bins from the baseline."""
    import torch

    from fgg.faithfulness.saco import coefficient

    own = reader.by_image(f"faithfulness/{name}", measure.column("saco_bin_drops"))
    other = reader.by_image(f"faithfulness/{baseline}", measure.column("saco_bin_relevance"))
    relevance, changes = (torch.from_numpy(frame.to_numpy(np.float64, copy=True)) for frame in (other, own))
    parts = zip(relevance.split(TOGETHER), changes.split(TOGETHER), strict=True)
    return pd.Series(torch.cat([coefficient(*part, protocol)[0] for part in parts]).numpy(), index=own.index)


def _correlation(reader: Reader, name: str, baseline: str, measure: Measure, protocol: str) -> pd.Series:
    import torch

    from fgg.attribution.controls import laid
    from fgg.faithfulness.checks import mean_ranks
    from fgg.faithfulness.faithfulness_correlation import correlate, pearson

    by_rank = not measure.metric.name.endswith("pearson")
    ids, subsets, answers = reader.keep(("responses", measure.fill), lambda: _responses(reader.place, measure.fill))
    # Spearman's correlation is Pearson's of the ranks; those of the answers are the same for all maps.
    ranks = reader.keep(("ranks", measure.fill), lambda: mean_ranks(answers)) if by_rank else answers
    own, other = (
        reader.by_image(f"attributions/{each}", "relevance").loc[ids].to_numpy(np.float32) for each in (name, baseline)
    )
    found = []
    for first in range(0, len(ids), TOGETHER):
        some = slice(first, first + TOGETHER)

        def correlation(sums: torch.Tensor, _: torch.Tensor, some: slice = some) -> torch.Tensor:
            return pearson(mean_ranks(sums) if by_rank else sums, ranks[some])

        relevance = torch.from_numpy(laid(other[some], own[some]))
        found.append(correlate(relevance, subsets[some], answers[some], protocol, correlation).mean(1))
    return pd.Series(torch.cat(found).numpy(), index=ids).sort_index()


def _responses(place: Path, fill: str) -> tuple[list[str], Any, Any]:
    """Image ids, subsets (n, trials, runs, k) and the answers to them (n, trials, runs), as tensors."""
    import torch

    path = place / "responses.parquet"
    drawn = read_settings(path)
    drops = "drops" if fill == drawn["fills"][0] else f"drops@{fill}"
    table = read_table(path, ["image_id", "subsets", drops])
    shape = (len(table), drawn["trials"], drawn["runs"])
    subsets = torch.from_numpy(matrix(table, "subsets").copy()).view(*shape, drawn["subset_size"])
    return table["image_id"].to_pylist(), subsets, torch.from_numpy(matrix(table, drops).copy()).view(shape)


RESCORED: dict[str, Callable[[Reader, str, str, Measure, str], pd.Series]] = {
    "saco": _saco,
    "faithfulness_correlation": _correlation,
    "faithfulness_correlation_pearson": _correlation,
}
