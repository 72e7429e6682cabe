"""Pages of an SAE's features: ``python -m fgg.cases.feature_pages``.

Reads the features' statistics, their prototypes, the case studies, and the user's names of features; writes a folder with
``index.html``, ``layer_{l}/index.html`` and ``layer_{l}/feature_{k}.html``. Each page is one file that needs no network.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fgg.cases.drawing import Album
from fgg.cases.feature_lists import case_list, layer_list, percent
from fgg.cases.feature_names import COLUMNS, NAMES_FILE, FeatureNames, read_feature_names
from fgg.cases.feature_pictures import bars, outlined
from fgg.comparison.quality import weak_saes
from fgg.data.load import load_split
from fgg.data.preprocess import Preprocess
from fgg.errors import FggError
from fgg.jobs.command import add_arguments, command
from fgg.progress import progress
from fgg.report.html import render
from fgg.tables import new_folder, read_csv, read_json, read_made_from, read_table

MOST_CLASSES = 8  # shown on a page
MOST_CASES = 12


@dataclass
class Layer:
    """An SAE's features.

    Attributes:
        table: the statistics, a row per feature, in the order of the features.
        about: what the statistics were counted over.
        prototypes: feature -> rows of the table of prototypes, strongest first.
        names: feature -> the user's name.
        warning: about the SAE; empty if it is sound.
    """

    number: int
    table: pd.DataFrame
    about: Mapping[str, Any]
    prototypes: dict[int, list[dict[str, Any]]]
    names: dict[int, str]
    warning: str = ""

    @property
    def pages(self) -> list[int]:
        """The features that have a page, ascending."""
        return [int(feature) for feature in self.table.loc[self.table["page"], "feature"]]


@command
def main(argv: list[str] | None = None) -> None:
    """Write the pages of a dataset's features."""
    parser = argparse.ArgumentParser(prog="python -m fgg.cases.feature_pages", description=__doc__)
    add_arguments(
        parser, "model", settings="JSON: prototypes", images="the explained split (.parquet)", output="folder to write"
    )
    parser.add_argument("--prototype-images", type=Path, required=True, help="the prototypes' split (.parquet)")
    parser.add_argument("--statistics", type=Path, required=True, help="folder with layer_{l}.parquet")
    parser.add_argument("--prototypes", type=Path, required=True, help="folder with layer_{l}.parquet")
    parser.add_argument("--layers", type=int, nargs="+", required=True, metavar="L")
    parser.add_argument("--cases", type=Path, nargs="*", default=[], help="folders of case studies")
    parser.add_argument("--names", type=Path, default=Path(NAMES_FILE), help="CSV with the user's names of features")
    parser.add_argument("--dataset", required=True)
    arguments = parser.parse_args(argv)
    given = read_feature_names(arguments.names)
    preprocess = Preprocess.from_dict(read_json(arguments.model / "model.json")["preprocess"])
    albums = tuple(Album(load_split(path), preprocess) for path in (arguments.prototype_images, arguments.images))
    layers = [_layer(arguments, number, given) for number in arguments.layers]
    remarks = given.remarks + [text for layer in layers for text in without_page(arguments.dataset, layer)]
    for remark in remarks:
        print(f"note: {remark}")
    cases = read_cases(arguments.cases)
    with new_folder(arguments.output) as folder:
        write(folder, arguments.dataset, layers, cases, (albums[0], albums[1]), remarks)


def _layer(arguments: argparse.Namespace, number: int, given: FeatureNames) -> Layer:
    path = arguments.statistics / f"layer_{number}.parquet"
    table = read_table(path).to_pandas()
    rows = read_table(arguments.prototypes / f"layer_{number}.parquet").to_pandas().sort_values(["feature", "rank"])
    rows = rows[rows["feature"].isin(table.loc[table["page"], "feature"])]
    rows = rows[rows["rank"] <= arguments.settings["prototypes"]]
    prototypes = {int(feature): own.to_dict("records") for feature, own in rows.groupby("feature")}
    warning = read_warnings(arguments.cases).get(number, "")
    return Layer(number, table, read_made_from(path), prototypes, given.of_layer(arguments.dataset, number), warning)


def read_warnings(folders: Sequence[Path]) -> dict[int, str]:
    """Layer -> the warning about its SAE, as case studies record it in their cases.json."""
    records = [path for folder in folders if (path := folder / "cases.json").is_file()]
    return weak_saes(text for path in records for text in read_json(path).get("warnings", ()))


def without_page(dataset: str, layer: Layer) -> list[str]:
    """A sentence about each name of a feature that has no page."""
    known, pages, found = len(layer.table), set(layer.pages), []
    for feature in sorted(set(layer.names) - pages):
        why = f"the SAE has {known} features, from 0" if feature >= known else "it has no page in this run"
        found.append(f"{NAMES_FILE}: feature {feature} of layer {layer.number} of {dataset!r}: {why}")
    return found


def read_cases(folders: Sequence[Path]) -> pd.DataFrame:
    """The rows of all case studies that name a feature. Raises FggError if a table is missing or damaged."""
    texts = ("image_id", "explained_class", "picture", "direction")
    frames = [read_csv(folder / "cases.csv", texts=texts).dropna(subset=["feature"]) for folder in folders]
    if not frames:
        return pd.DataFrame(columns=["layer", "feature"])
    frame = pd.concat(frames, ignore_index=True).astype({"feature": int})
    frame["picture"] = [f"cases/{one}/{two}" for one, two in zip(frame["experiment"], frame["picture"], strict=True)]
    return frame


def write(
    folder: Path,
    dataset: str,
    layers: Sequence[Layer],
    cases: pd.DataFrame,
    albums: tuple[Album, Album],
    remarks: Sequence[str],
) -> None:
    """Write all pages below a folder.

    Args:
        cases: rows of the case studies that name a feature.
        albums: the images of the prototypes, and the explained images.
        remarks: names that were not used.
    """
    total = sum(len(layer.pages) for layer in layers)
    pages = [(layer, feature) for layer in layers for feature in layer.pages]
    thumbnails: dict[tuple[int, int], str] = {}
    for layer, feature in progress(pages, total, "feature pages", "page"):
        own = cases[(cases["layer"] == layer.number) & (cases["feature"] == feature)]
        values = feature_page(dataset, layer, feature, own, albums)
        if values["prototypes"]:
            thumbnails[layer.number, feature] = values["prototypes"][0]["seen"].near
        _write(folder / f"layer_{layer.number}/feature_{feature}.html", render("feature", **values))
    for layer in layers:
        own = cases[cases["layer"] == layer.number]
        values = layer_list(dataset, layer, own["feature"].value_counts().to_dict(), thumbnails, remarks)
        values["warning"] = layer.warning
        _write(folder / f"layer_{layer.number}/index.html", render("feature_list", **values))
    _write(folder / "index.html", render("feature_list", **case_list(dataset, layers, cases, remarks)))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def feature_page(
    dataset: str, layer: Layer, feature: int, cases: pd.DataFrame, albums: tuple[Album, Album]
) -> dict[str, Any]:
    """What the template of a feature's page needs.

    Raises:
        FggError: the prototypes or the cases name images that their split lacks.
    """
    row, about, grid = layer.table.iloc[feature], layer.about, tuple(layer.about["grid"])
    order = layer.table["score_share"].rank(ascending=False, method="min")
    place, pages = layer.pages.index(feature), layer.pages
    prototypes = [
        {
            **_seen(albums[0], found["image_id"], int(found["patch"]), grid),
            "activation": f"{found['activation']:.3g}",
            "class": albums[0].split.label_names[albums[0].places[found["image_id"]]],
        }
        for found in layer.prototypes.get(feature, [])
    ]
    shown = [
        {
            **_seen(albums[1], found["image_id"], int(found["patch"]), grid),
            "class": found["explained_class"],
            "direction": found["direction"],
            "change": signed(found["change"]),
            "share": percent(found["share"]) if np.isfinite(found.get("share", np.nan)) else "",
            "picture": f"../../{found['picture']}",
            **{key: found[key] for key in ("experiment", "category", "rank")},
        }
        for found in cases.head(MOST_CASES).to_dict("records")
    ]
    tokens, largest = sum(about["tokens"]), f"{row['max_activation']:.3g}"
    facts = {
        "share of the gate's score": percent(row["score_share"]),
        "rank by this share": f"{int(order.iloc[feature])} of {len(layer.table)}",
        "active on": f"{percent(row['frequency'])} of the patches",
        "place": about["hook"],
        "model": about["architecture"],
        "SAE": about["kind"].replace("_", " "),
    }
    classes = _classes(row, about["classes"], [own["class"] for own in prototypes])
    return {
        "title": f"Feature {feature} of layer {layer.number}, {dataset}",
        "dataset": dataset,
        "layer": layer.number,
        "feature": feature,
        "name": layer.names.get(feature, ""),
        "warning": layer.warning,
        "names_file": NAMES_FILE,
        "names_head": ",".join(COLUMNS),
        "before": pages[place - 1] if place else None,
        "after": pages[place + 1] if place + 1 < len(pages) else None,
        "facts": facts.items(),
        "prototypes": prototypes,
        "images": about["images"],
        "split": about["split"],
        "active": f"{row['active']:,}",
        "tokens": f"{tokens:,}",
        "frequency": percent(row["frequency"]),
        "mean": f"{row['mean_activation']:.3g}",
        "largest": largest,
        "bars": bars(row["histogram"].tolist(), row["max_activation"]) if row["active"] else [],
        "fullest": f"{row['histogram'].max():,}",
        "classes": classes[:MOST_CLASSES],
        "more_classes": len(classes[MOST_CLASSES:]),
        "partners": [
            {
                "feature": int(other),
                "page": int(other) in pages,
                "name": layer.names.get(int(other), ""),
                "jaccard": f"{jaccard:.2f}",
                "chance": f"{chance:.2f}",
            }
            for other, jaccard, chance in zip(row["partner"], row["jaccard"], row["jaccard_by_chance"], strict=True)
        ],
        "cases": shown,
    }


def _seen(album: Album, image_id: str, patch: int, grid: tuple[int, ...]) -> dict[str, Any]:
    if image_id not in album.places:
        raise FggError(f"{album.split.path} lacks the image {image_id}; run the workflow again")
    row, column = divmod(patch, grid[1])
    return {
        "seen": outlined(album(image_id), patch, (grid[0], grid[1])),
        "image_id": image_id, "row": row, "column": column,
    }  # fmt: skip


def _classes(row: pd.Series, names: Sequence[str], prototypes: Sequence[str]) -> list[dict[str, Any]]:
    """The classes, that of the largest mean activation first; those without a patch are left out."""
    found = [
        {
            "name": name,
            "mean": f"{mean:.3g}",
            "share": percent(share),
            "percent": f"{100 * mean / max(1e-30, np.nanmax(row['class_mean'])):.0f}",
            "patches": prototypes.count(name),
            "order": -mean,
        }
        for name, mean, share in zip(names, row["class_mean"], row["class_share"], strict=True)
        if np.isfinite(mean)
    ]
    return sorted(found, key=lambda own: (own["order"], own["name"]))


def signed(value: float) -> str:
    """A change with its sign."""
    return f"{value:+.2f}".replace("-", "−")


if __name__ == "__main__":
    sys.exit(main())
