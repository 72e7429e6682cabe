"""The parts of the report: tables, pictures and warnings, ready for its template."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from fgg.comparison.strata import MEASURABLE
from fgg.faithfulness.measures import Measure
from fgg.report.experiment_names import label, varies
from fgg.report.html import data_uri, written
from fgg.report.metrics_shown import rows_of
from fgg.report.order_and_values import random_srg
from fgg.tables import read_csv

TITLES = {
    "answer": "Answer",
    "methods": "Methods and cost",
    "agreement": "Agreement of metrics",
    "saes": "SAEs",
    "cases": "Case studies",
    "figures": "Figures",
    "tables": "Tables",
    "configuration": "Configuration",
}
SAE_COLUMNS = {
    "layer": "layer",
    "kind": "kind",
    "sound": "sound",
    "explained_variance": "explained variance",
    "l0": "L0",
    "dead_share": "dead features, share",
    "loss_recovered": "loss recovered",
    "same_prediction": "same prediction",
    "monosemanticity": "monosemanticity",
    "monosemanticity_random": "of random features",
    "warnings": "warnings",
}
SAE_KINDS = {
    "frozen_decoder": "random decoder (control)",
    "untrained": "untrained (control)",
    "pca": "principal components (control)",
    "identity": "residual dimensions (control)",
}
CASE_TEXTS = ("dataset", "experiment", "category", "image_id", "true_class", "predicted_class", "picture", "direction")
MOST_CASES = 6  # pictures per experiment, layer and kind
MOST_FEATURES = 3  # named below a picture
WIDTH = 560  # of a picture of a case study, pixels
QUALITY = 70  # of its JPEG
LARGE = 600_000  # bytes of an SVG that is not put into the page


def alerts(comparison: pd.DataFrame) -> list[str]:
    """What makes the whole run doubtful: files that were left out, random maps that do not score 0, coarse arithmetic."""
    found = []
    for dataset, rows in comparison.groupby("dataset", sort=False):
        if skipped := int(rows["n_skipped"].max()):
            found.append(
                f"{dataset}: {skipped} files could not be used; data/prepared/{dataset}/dataset.json names them."
            )
    for row, _, passed in random_srg(comparison):
        if not passed:
            found.append(
                f"{row['dataset']}, seed {row['seed']}, fill {row['fill']}: random maps have an SRG of {row['mean']:+.4f}, which "
                "must be 0 within its error. Do not trust this run."
            )
    coarse = sorted(set(comparison["precision"]) - {"fp32"})
    return found + [f"Computed in {name}, which is for exploration." for name in coarse]


def methods(comparison: pd.DataFrame, measures: Mapping[str, Mapping[str, Measure]]) -> list[dict[str, Any]]:
    """Per dataset a table of methods and gates without controls: name, passes, mean by every measure (over the seeds)."""
    found = []
    for dataset, frame in comparison.groupby("dataset", sort=False):
        frame = frame[(frame["stratum"] == MEASURABLE) & frame["control"].isna() & ~frame["shuffle_decoder"].eq(True)]
        strong = varies(frame)
        own = list(measures[str(dataset)].values())
        names = list(dict.fromkeys(frame["experiment"]))
        means = {each.name: rows_of(frame, each).groupby("experiment")["mean"].mean().reindex(names) for each in own}
        first = frame.drop_duplicates("experiment").set_index("experiment")
        real = [name for name in names if first.loc[name, "role"] == "method"]
        best = {
            each.name: (each.metric.sign * means[each.name][real]).idxmax()
            for each in own
            if means[each.name][real].notna().any()
        }
        rows = [
            {
                "name": label(_cells(first.loc[name]) | {"experiment": name}, strong),
                "passes": _passes(first.loc[name]),
                "cells": [(_short(means[each.name][name]), best.get(each.name) == name) for each in own],
            }
            for name in names
        ]
        heads = [f"{each.title} {'↑' if each.metric.sign > 0 else '↓'}" for each in own]
        if rows:
            found.append({"dataset": dataset, "heads": heads, "rows": rows})
    return found


def _cells(row: pd.Series) -> dict[str, Any]:
    """The settings of an experiment, None where the table is empty."""
    return {str(name): None if pd.isna(value) else value for name, value in row.items()}


def _passes(row: pd.Series) -> str:
    counts = [row["forward_passes"], row["backward_passes"]]
    return "unknown" if any(pd.isna(count) for count in counts) else " + ".join(f"{count:.0f}" for count in counts)


def _short(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.3f}".replace("-", "−")


def agreement(table: pd.DataFrame, measures: Mapping[str, Mapping[str, Measure]]) -> list[dict[str, Any]]:
    """Per dataset the matrix of rank correlations over experiments (mean over the seeds), with shades."""
    found = []
    for dataset, frame in table[table["stratum"] == MEASURABLE].groupby("dataset", sort=False):
        frame = frame.fillna({"first_fill": "", "second_fill": ""})
        keys = ["first", "first_fill", "second", "second_fill"]
        means = frame.groupby(keys)["over_methods"].mean()
        own = list(measures[str(dataset)].values())
        if not len(means) or len(own) < 2:
            continue
        rows = []
        for one in own:
            cells = [("", "#fff") if one is other else _shaded(_pair(means, one, other)) for other in own]
            rows.append((one.title, cells))
        found.append({"dataset": dataset, "heads": [each.title for each in own], "rows": rows})
    return found


def _pair(means: pd.Series, one: Measure, other: Measure) -> float:
    keys = [(a.metric.name, a.fill, b.metric.name, b.fill) for a, b in ((one, other), (other, one))]
    return next((float(means[key]) for key in keys if key in means.index), np.nan)


def _shaded(value: float) -> tuple[str, str]:
    """A correlation and its colour: white at 0, grey-blue towards 1, orange towards -1, always light enough for black text."""
    if np.isnan(value):
        return "–", "#fff"
    end = (158, 197, 227) if value > 0 else (250, 200, 150)
    mixed = [round(255 + (to - 255) * min(abs(value), 1.0)) for to in end]
    return f"{value:+.2f}".replace("-", "−"), "#{:02x}{:02x}{:02x}".format(*mixed)


def saes(table: pd.DataFrame) -> dict[str, Any]:
    """The SAEs' table: name, and the columns `SAE_COLUMNS` that hold anything."""
    shown = [name for name in SAE_COLUMNS if name in table and table[name].notna().any() and name != "layer"]
    rows = []
    for row in table.replace({"kind": SAE_KINDS}).to_dict("records"):
        seed = f", seed {row['seed']}" if table["seed"].nunique() > 1 else ""
        rows.append([f"{row['dataset']}{seed}, layer {row['layer']}", *(written(row[name])[1] for name in shown)])
    return {"heads": ["SAE", *(SAE_COLUMNS[name] for name in shown)], "rows": rows}


def cases(folders: list[Path], results: Path) -> list[dict[str, Any]]:
    """Per experiment and layer the pictures of its case studies, the first `MOST_CASES` of each kind."""
    return [group for folder in folders for group in _cases(folder, results)]


def _cases(folder: Path, results: Path) -> Iterator[dict[str, Any]]:
    table = read_csv(folder / "cases.csv", texts=CASE_TEXTS)
    pages = folder.parents[1] / "features"
    for layer, rows in table.groupby("layer", sort=False):
        per_case = list(rows.groupby(["category", "rank"], sort=False))
        shown = [(kind, own) for (kind, rank), own in per_case if rank <= MOST_CASES]
        yield {
            "title": f"{rows.iloc[0]['dataset']}, {folder.name}, layer {layer}",
            "cases": [_case(str(kind), own, folder, pages, results) for kind, own in shown],
            "more": len(per_case) - len(shown),
            "folder": folder.relative_to(results).as_posix(),
        }


def _case(kind: str, rows: pd.DataFrame, folder: Path, pages: Path, results: Path) -> dict[str, Any]:
    first = rows.iloc[0]
    picture = folder / str(first["picture"])
    thumbnail, width, height = _thumbnail(picture)
    right = first["true_class"] == first["predicted_class"]
    classes = f"{first['predicted_class']}" + ("" if right else f" (true class {first['true_class']})")
    features = rows.dropna(subset=["feature"]).drop_duplicates("feature")[:MOST_FEATURES]
    return {
        "kind": f"{kind} {first['rank']}", "image": first["image_id"], "classes": classes,
        "picture": picture.relative_to(results).as_posix(), "thumbnail": thumbnail, "width": width, "height": height,
        "alt": f"Case study, {kind} {first['rank']}: image {first['image_id']}, predicted {classes}; maps before and after the gate",
        "features": [
            {
                "name": f"{row['feature']:.0f} ({str(row['direction']).lower()})",
                "page": page.relative_to(results).as_posix()
                if (page := pages / f"layer_{row['layer']}" / f"feature_{row['feature']:.0f}.html").is_file()
                else "",
            }
            for row in features.to_dict("records")
        ],
    }  # fmt: skip


def _thumbnail(path: Path, width: int = WIDTH) -> tuple[str, int, int]:
    """A picture as a data URI, at most ``width`` pixels wide, with its width and height."""
    with Image.open(path) as opened:
        small = opened.convert("RGB")
    small.thumbnail((width, 4 * width), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="jpeg", quality=QUALITY)
    return data_uri(buffer.getvalue(), "jpeg"), small.width, small.height


def pictures(results: Path, datasets: list[str], drawn: Mapping[str, str]) -> list[dict[str, Any]]:
    """Per dataset its figures (name -> title) as data URIs; figures that were not drawn for a dataset are left out."""
    found = []
    for dataset in datasets:
        own = [
            {"title": title, "file": f"figures/{path.name}", "picture": _figure(path)}
            for name, title in drawn.items()
            if (path := results / "figures" / f"{dataset}_{name}.svg").is_file()
        ]
        if own:
            found.append({"dataset": dataset, "figures": own})
    return found


def _figure(path: Path) -> str:
    """A figure as a data URI: the SVG file, or the PNG beside it if the SVG is large, such as one that holds many maps."""
    if path.stat().st_size <= LARGE:
        return data_uri(path.read_bytes(), "svg+xml")
    return _thumbnail(path.with_suffix(".png"), 2 * WIDTH)[0]


def feature_pages(folders: list[Path], results: Path) -> list[tuple[str, str]]:
    """Dataset and start of its feature pages, relative to the results."""
    starts = dict.fromkeys(folder.parents[1] / "features" / "index.html" for folder in folders)
    return [(path.parents[1].name, path.relative_to(results).as_posix()) for path in starts if path.is_file()]
