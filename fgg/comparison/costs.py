"""What each method's maps cost, and all methods in one table: ``results/methods.csv``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fgg.attribution.registry import find_method
from fgg.catalogue import EXTERNAL
from fgg.comparison.strata import MEASURABLE
from fgg.experiments import role
from fgg.faithfulness.measures import Measure
from fgg.statistics.paired import Row
from fgg.tables import matrix, read_settings, read_table

RESIDUAL = "completeness_residual"
BACKWARD = ("attention_gradients", "residual_gradients", "last_attention", "input_gradient")  # needs of a backward pass
ABOUT = ("dataset", "seed", "experiment", "method", "role", "forward_passes", "backward_passes", RESIDUAL)


def costs(place: Path, name: str, settings: Mapping[str, Any], patches: int) -> Row:
    """The role of an experiment, its passes per image, and its mean completeness residual; None where unknown.

    Args:
        place: the folder of a dataset's results.
        name: the experiment.
        patches: number of patches of an image.
    """
    path = place / "attributions" / f"{name}.parquet"
    if not path.is_file():  # tables of scores without maps
        return {"role": role(settings)}
    used = read_settings(path).get("experiment", settings)  # with the options that were chosen
    forward, backward = passes({**settings, **used}, patches)
    residual = None
    if RESIDUAL in pq.read_schema(path).names:
        residual = float(np.abs(read_table(path, [RESIDUAL])[RESIDUAL].to_numpy()).mean())
    return {"role": role(settings), "forward_passes": forward, "backward_passes": backward, RESIDUAL: residual}


def patches_of_maps(place: Path, name: str) -> int:
    """The number of patches in the maps of an experiment; 0 if there are none."""
    path = place / "attributions" / f"{name}.parquet"
    return matrix(read_table(path, ["relevance"])[:1], "relevance").shape[1] if path.is_file() else 0


def passes(settings: Mapping[str, Any], patches: int) -> tuple[int | None, int | None]:
    """Forward and backward passes per image of an experiment; a gate reads one pass of each, which methods can share."""
    if settings["method"] == EXTERNAL:
        return None, None
    method = find_method(settings["method"])
    gate = settings.get("gate")
    layers = {"layers": gate["layers"]} if gate and "layers" in method.options else {}
    forward, backward = method.passes(patches, {**settings.get("options", {}), **layers})
    if gate is None or forward is None or backward is None:
        return forward, backward
    shared = any(need in BACKWARD for need in method.needs)
    return forward + method.own_pass, backward + (not shared)


def methods_table(comparison: pd.DataFrame, measures: Mapping[tuple[str, str], Mapping[str, Measure]]) -> pa.Table:
    """A row per dataset, seed and experiment: its cost, and its mean by every measure on the measurable images.

    Args:
        comparison: all rows of the comparison.
        measures: (dataset, seed) -> name -> measure.
    """
    frame = comparison[comparison["stratum"] == MEASURABLE].assign(fill=comparison["fill"].fillna(""))
    names = list(dict.fromkeys(name for own in measures.values() for name in own))
    rows = []
    for _, own in frame.groupby(["dataset", "seed", "experiment"], sort=False):
        known = measures[own.iloc[0]["dataset"], own.iloc[0]["seed"]]
        row = own.iloc[0][list(ABOUT)].to_dict() | {"title": _title(own.iloc[0]["method"])}
        means = {(each["metric"], each["fill"]): each["mean"] for each in own.to_dict("records")}
        rows.append(
            row
            | dict.fromkeys(names, np.nan)
            | {name: means[each.metric.name, each.fill] for name, each in known.items()}
        )
    kinds = dict.fromkeys(ABOUT[:5], pa.string()) | dict.fromkeys(ABOUT[5:7], pa.int64()) | {RESIDUAL: pa.float64()}
    kinds |= {"title": pa.string(), **dict.fromkeys(names, pa.float64())}
    return pa.table({name: pa.array([_plain(row[name]) for row in rows], kind) for name, kind in kinds.items()})


def _plain(value: Any) -> Any:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _title(method: str) -> str:
    return method if method == EXTERNAL else find_method(method).title
