"""The scores of a dataset by all metrics, read from the tables of the faithfulness stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from fgg.errors import FggError
from fgg.faithfulness.measures import Measure
from fgg.tables import read_table

Scores = dict[str, pd.DataFrame]
COMMON = ("image_id", "label", "predicted", "relevance_ties")


def read_scores(
    place: str | Path, experiments: Sequence[str], baseline: str, measures: Mapping[str, Measure]
) -> Scores:
    """The scores of a dataset: experiment -> data frame indexed by image id, all in the same order.

    Args:
        place: the folder with ``faithfulness/{experiment}.parquet`` and ``scores/{metric}/{experiment}.parquet``.

    Raises:
        FggError: a table is missing or damaged, an image id occurs twice, or the images differ.
    """
    scores = {name: experiment_scores(Path(place), name, measures) for name in experiments}
    if baseline not in scores:
        raise FggError(f"the baseline {baseline!r} is not among the experiments: {', '.join(experiments)}")
    for name, frame in scores.items():
        _check_images(f"experiment {name!r}", frame, repr(baseline), scores[baseline], f"faithfulness/{name}.parquet")
    return scores


def experiment_scores(place: Path, name: str, measures: Mapping[str, Measure]) -> pd.DataFrame:
    """The scores of one experiment, indexed and sorted by image id. Raises the same errors as `read_scores`."""
    parts = []
    if own := [measure for measure in measures.values() if measure.metric.own]:
        parts.append(_read(place / "faithfulness" / f"{name}.parquet", name, own))
    for metric in dict.fromkeys(measure.metric.name for measure in measures.values() if not measure.metric.own):
        foreign = [measure for measure in measures.values() if measure.metric.name == metric]
        parts.append(_read(place / "scores" / metric / f"{name}.parquet", name, foreign))
        what = f"the metric {metric!r} of experiment {name!r}"
        _check_images(what, parts[-1], "its other scores", parts[0], f"scores/{metric}/{name}.parquet")
    first, *others = parts
    return first.join([part.drop(columns=[*COMMON[1:]]) for part in others]) if others else first


def _read(path: Path, name: str, measures: Sequence[Measure]) -> pd.DataFrame:
    columns = [own for entry in measures for own in (entry.name, entry.error_column) if own]
    frame = read_table(path, columns=[*COMMON, *columns]).to_pandas()
    twice = frame["image_id"].duplicated().sum()
    if twice:
        raise FggError(f"experiment {name!r}: {twice} image ids of {path} occur more than once; delete the file")
    return frame.set_index("image_id").sort_index()


def _check_images(what: str, frame: pd.DataFrame, partner: str, reference: pd.DataFrame, file: str) -> None:
    ids = reference.index
    missing, extra = len(ids.difference(frame.index)), len(frame.index.difference(ids))
    if missing or extra:
        raise FggError(
            f"{what} has not the images of {partner}: {missing} of its {len(ids)} image ids are missing and {extra} are "
            f"foreign; delete {file} and run the workflow again"
        )
