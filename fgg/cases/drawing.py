"""Draw the pictures of an experiment's case studies from their tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from fgg.cases import case_tables, pictures
from fgg.cases.case_tables import BOOST, SUPPRESS
from fgg.cases.layout import Patch
from fgg.cases.pictures import Case, Change, Names
from fgg.data.load import Split
from fgg.data.preprocess import Preprocess
from fgg.errors import FggError
from fgg.plot import image_arrays
from fgg.progress import progress
from fgg.tables import read_table

MOST_TILES = 7  # cases shown on a feature's page
MOST_PROTOTYPES = 5  # that fit a line of a picture


@dataclass
class Album:
    """The images of a split as the model sees them; each is read only once."""

    split: Split
    preprocess: Preprocess
    kept: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.places = {image_id: place for place, image_id in enumerate(self.split.image_ids)}

    def __call__(self, image_id: str) -> np.ndarray:
        """The image as an array (H, W) or (H, W, 3), from 0 to 1."""
        if image_id not in self.kept:
            picture = self.split.picture(self.places[image_id])
            self.kept[image_id] = image_arrays.picture(picture, self.preprocess, grey=False)
        return self.kept[image_id]


class Prototypes:
    """The prototypes of some features, as patches to draw.

    Args:
        folder: the folder with ``layer_{l}.parquet``.
        wanted: pairs (layer, feature).
        album: the images of the prototypes' split.
        grid: rows and columns of patches.

    Raises:
        FggError: a table is missing or damaged, or names images that the split lacks.
    """

    def __init__(self, folder: Path, wanted: set[tuple[int, int]], album: Album, grid: tuple[int, int]) -> None:
        self.album, self.grid = album, grid
        self.rows: dict[tuple[int, int], list[dict]] = {}
        for layer in sorted({layer for layer, _ in wanted}):
            path = folder / f"layer_{layer}.parquet"
            table = read_table(path).to_pandas().sort_values(["feature", "rank"])
            own = table[table["feature"].isin([feature for at, feature in wanted if at == layer])]
            if not own["image_id"].isin(list(album.places)).all():
                raise FggError(f"{path} names images that {album.split.path} lacks; delete it and run again")
            for feature, rows in own.groupby("feature"):
                self.rows[layer, int(feature)] = rows.to_dict("records")

    def __call__(self, layer: int, feature: int, image_id: str | None = None) -> list[Patch]:
        """A feature's prototypes, strongest first, without those from the image ``image_id``."""
        return [self._patch(row) for row in self.rows.get((layer, feature), []) if row["image_id"] != image_id]

    def _patch(self, row: dict) -> Patch:
        name = self.album.split.label_names[self.album.places[row["image_id"]]]
        return Patch(self.album(row["image_id"]), row["patch"], self.grid, (f"{row['activation']:.2f}", name))


def draw_cases(
    folder: Path,
    explained: case_tables.Explained,
    cases: pd.DataFrame,
    names: Names,
    album: Album,
    prototypes: Prototypes,
) -> None:
    """Write a picture for every image and layer of the table, to the paths in its column ``picture``."""
    places = {image_id: place for place, image_id in enumerate(explained.image_ids)}
    sizes = cases.groupby("category")["rank"].max().to_dict()
    for name, rows in _with_progress(cases, "picture"):
        image_id, category = rows[0]["image_id"], rows[0]["category"]
        i = places[image_id]
        own = [prototypes(row["layer"], row["feature"], image_id) if row["direction"] else () for row in rows]
        changes = [Change(row, found[:MOST_PROTOTYPES]) for row, found in zip(rows, own, strict=True)]
        case = Case(album(image_id), explained.vanilla_map[i], explained.gated_map[i], explained.grid, changes)
        pictures.case_picture(case, names, sizes[category], _made(folder / name))


def draw_features(
    folder: Path,
    explained: case_tables.Explained,
    cases: pd.DataFrame,
    features: pd.DataFrame,
    names: Names,
    album: Album,
    prototypes: Prototypes,
) -> None:
    """Write a page for every feature that occurs in a case, to the paths in the column ``page``."""
    events = {layer: case_tables.dominant_events(explained, layer) for layer in explained.dominant}
    for name, (row,) in _with_progress(features[features["cases"] > 0], "page"):
        layer, feature = row["layer"], row["feature"]
        own = cases[(cases["layer"] == layer) & (cases["feature"] == feature)].head(MOST_TILES)
        counts = class_counts(events[layer], feature, explained.classes)
        tiles = [_tile(case, album, explained.grid) for case in own.to_dict("records")]
        page = _made(folder / name)
        shown = prototypes(layer, feature)[:MOST_PROTOTYPES]
        pictures.feature_page(row, names, counts, shown, tiles, page)


def class_counts(events: pd.DataFrame, feature: int, classes: list[str]) -> dict[str, dict[str, int]]:
    """Direction -> explained class -> number of patches, for a feature among the events of its layer."""
    own = events[events["feature"] == feature]
    up = own["change"] > 0
    return {
        direction: {classes[label]: int(count) for label, count in part["class"].value_counts().items()}
        for direction, part in ((BOOST, own[up]), (SUPPRESS, own[~up]))
    }


def _tile(case: dict, album: Album, grid: tuple[int, int]) -> Patch:
    change = f"{case['direction']} {case['change']:+.2f}".replace("-", "−")
    share = f"{100 * case['share']:.0f} % of score"
    lines = (change, share, case["image_id"], case["predicted_class"])
    return Patch(album(case["image_id"]), case["patch"], grid, lines)


def _with_progress(frame: pd.DataFrame, column: str) -> Iterable[tuple[str, list[dict]]]:
    groups = [(name, rows.to_dict("records")) for name, rows in frame.groupby(column, sort=False)]
    return progress(groups, len(groups), f"{column}s", column)


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
