"""The quality of the SAEs as a table: a row per dataset, seed and layer, from their metrics.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fgg.catalogue import DICTIONARIES
from fgg.comparison import quality
from fgg.experiments import needs_sae
from fgg.tables import read_json

# Measurements, in the order of their columns; docs/saes.md defines them.
MEASURES = (
    *("tokens", "features", "width", "explained_variance", "fvu", "cosine_similarity"),
    *("l0", "l0_low", "l0_median", "l0_high", "dead_share", "dense_share", "usage_entropy"),
    *("same_prediction", "kl", "accuracy_before", "accuracy_after", "loss", "loss_replaced", "loss_ablated"),
    *("loss_recovered", "downstream_images"),
    *("morans_i", "morans_i_random", "morans_i_queen", "morans_i_features", "morans_i_maps"),
    *("maps_few", "maps_many", "maps_constant"),
    *("monosemanticity", "monosemanticity_random", "monosemanticity_features"),
    *("class_selectivity", "class_selectivity_random"),
)
COLUMNS = (
    *("dataset", "seed", "layer", "kind", "place", "sound"),
    *(f"sound_{name}" for name in quality.SAE_LEVELS),
    *("warnings", *MEASURES),
)
COUNTS = ("tokens", "features", "width", "downstream_images", "morans_i_features", "morans_i_maps",
          "maps_few", "maps_many", "maps_constant", "monosemanticity_features", "l0_low", "l0_median", "l0_high")  # fmt: skip


def read_measures(data: Path, name: str, grid: Mapping[str, Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """Layer -> metrics.json of the SAEs that the experiments of a grid read, from ``data/saes/{name}``."""
    layers = {layer for own in grid.values() if needs_sae(own) for layer in own["gate"]["layers"]}
    return {n: read_json(data / "saes" / name / f"layer_{n}" / "metrics.json") for n in sorted(layers)}


def read_controls(
    data: Path, name: str, grid: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Layers and metrics.json of the SAEs that controls of the dictionary read, from ``data/saes/{name}/{kind}``."""
    used = [
        (DICTIONARIES[own["control"]][1], own["gate"]) for own in grid.values() if own.get("control") in DICTIONARIES
    ]
    for kind, layer in sorted({(kind, layer) for kind, gate in used for layer in gate["layers"]}):
        yield layer, read_json(data / "saes" / name / kind / f"layer_{layer}" / "metrics.json")


def sae_table(settings: Mapping[str, Any], data: Path | None) -> pd.DataFrame:
    """The table of all runs of a comparison, with the columns `COLUMNS`; last in a run are its controls of the dictionary.

    ``sound_{level}`` says whether an SAE keeps a level of quality, empty where it was not measured; ``sound`` is true if it
    breaks none.

    Args:
        settings: settings of the comparison, as `fgg.comparison.__main__.read` gives them.
        data: folder with saes/; None gives a table without rows.
    """
    levels = {**quality.LEVELS, **settings.get("quality", {})}
    runs = settings.get("runs", list(settings["experiments"])) if data is not None else []
    rows = [row for name in runs for row in _rows(settings, name, Path(data or ""), levels)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype(dict.fromkeys(COUNTS, "Int64"))


def _rows(settings: Mapping[str, Any], name: str, data: Path, levels: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    about = {"dataset": name, "seed": settings["seed"], "sae": name, **settings.get("instances", {}).get(name, {})}
    place = (data, about["sae"], settings["experiments"][name])
    for layer, own in [*read_measures(*place).items(), *read_controls(*place)]:
        passed = quality.sae_passes(own, levels)
        said = [*own.get("warnings", ()), *quality.sae_warnings(layer, own, levels)]
        yield {
            "dataset": about["dataset"],
            "seed": str(about["seed"]),
            "layer": layer,
            **{key: own.get(key) for key in ("kind", "place")},
            "sound": False not in passed.values(),
            **{f"sound_{level}": kept for level, kept in passed.items()},
            "warnings": "; ".join(said),
            **{measure: own.get(measure) for measure in MEASURES},
        }
