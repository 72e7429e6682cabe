"""The tables of an experiment's case studies: ``cases.csv`` and ``features.csv``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fgg.cases.choice import Selection
from fgg.errors import FggError
from fgg.tables import matrix, read_table

BOOST, SUPPRESS = "BOOST", "SUPPRESS"  # what the dominant feature does to a patch

MOST_CLASSES = 3  # classes named per feature and direction
FIRST_COLUMNS = ("dataset", "experiment", "layer", "category", "rank", "image_id", "composite")
OTHER_COLUMNS = (
    *("true_class", "predicted_class", "explained_class", "confidence", "patch_rank", "patch", "row", "column"),
    *("vanilla_relevance", "gated_relevance", "vanilla_map", "gated_map", "change", "score", "gate"),
    *("feature", "activation", "feature_gradient", "contribution", "direction", "picture"),
)
FEATURE_COLUMNS = (
    *("dataset", "experiment", "layer", "feature", "boosts", "suppresses"),
    *("boosts_most_changed", "suppresses_most_changed", "images"),
    *("mean_contribution", "mean_contribution_boosting", "mean_contribution_suppressing"),
    *("mean_activation", "mean_change", "boosted_classes", "suppressed_classes", "cases", "page"),
)
DOMINANT = ("feature", "activation", "gradient", "contribution")


@dataclass(frozen=True)
class Explained:
    """All explained images of an experiment, n images in the order of ``image_ids``; arrays per patch are (n, N).

    Attributes:
        image_ids: ids of the n images.
        labels: int64 (n,).
        predicted: int64 (n,).
        target: int64 (n,), the class explained.
        confidence: (n,).
        vanilla, gated: relevance (n, N).
        vanilla_map, gated_map: relevance as displayed, from 0 to 1 (n, N).
        most_changed: int64 (n, k), patches with the largest change, largest first.
        scores, gates: layer -> (n, N).
        dominant: layer -> name of `DOMINANT` -> (n, N).
        grid: rows and columns of patches.
        classes: class names.
    """

    image_ids: list[str]
    labels: np.ndarray
    predicted: np.ndarray
    target: np.ndarray
    confidence: np.ndarray
    vanilla: np.ndarray
    gated: np.ndarray
    vanilla_map: np.ndarray
    gated_map: np.ndarray
    most_changed: np.ndarray
    scores: dict[int, np.ndarray]
    gates: dict[int, np.ndarray]
    dominant: dict[int, dict[str, np.ndarray]]
    grid: tuple[int, int]
    classes: list[str]

    @property
    def change(self) -> np.ndarray:
        """The change between the maps as displayed, (n, N)."""
        return self.gated_map - self.vanilla_map


def read_rows(path: str, image_ids: list[str], names: tuple[str, ...], layer: int | None = None) -> dict:
    """Read columns of a table in the order of the image ids; lists become arrays (n, N).

    Args:
        layer: the layer to read, for tables with several rows per image.

    Raises:
        FggError: the table is missing or damaged, or holds other images.
    """
    table = read_table(path)
    if layer is not None:
        table = table.filter(np.asarray(table["layer"]) == layer)
    rows = {image_id: row for row, image_id in enumerate(table["image_id"].to_pylist())}
    if set(rows) != set(image_ids) or len(table) != len(image_ids):
        raise FggError(f"{path} holds other images than the explained split; delete it and run the workflow again")
    order = np.array([rows[image_id] for image_id in image_ids], dtype=np.int64)
    found = {}
    for name in names:
        lists = hasattr(table.schema.field(name).type, "list_size")
        found[name] = (matrix(table, name) if lists else table[name].to_numpy())[order]
    return found


def case_table(
    explained: Explained, selection: Selection, gains: pd.DataFrame, composites: pd.Series, columns: Mapping[str, str]
) -> pd.DataFrame:
    """A row per chosen image, layer and changed patch; ``columns`` (dataset, experiment) come first.

    The feature and its numbers are empty where no feature contributes in the direction of the change.
    """
    places = {image_id: place for place, image_id in enumerate(explained.image_ids)}
    rows = []
    for layer in explained.gates:
        for category, chosen in selection.chosen.items():
            for rank, image_id in enumerate(chosen, start=1):
                i = places[image_id]
                about = {
                    **columns,
                    "layer": layer,
                    "category": category,
                    "rank": rank,
                    "image_id": image_id,
                    "composite": composites[image_id],
                    **{f"gain_{name}": gains.loc[image_id, name] for name in gains},
                    "true_class": explained.classes[explained.labels[i]],
                    "predicted_class": explained.classes[explained.predicted[i]],
                    "explained_class": explained.classes[explained.target[i]],
                    "confidence": float(explained.confidence[i]),
                }
                for patch_rank, patch in enumerate(explained.most_changed[i], start=1):
                    row = about | {"patch_rank": patch_rank} | _patch(explained, layer, i, int(patch))
                    rows.append(row | {"picture": f"layer_{layer}/{category}/{rank}_{file_name(image_id)}.png"})
    columns_of_gains = [f"gain_{name}" for name in gains]
    names = [*FIRST_COLUMNS, *columns_of_gains, *OTHER_COLUMNS]
    return pd.DataFrame(rows, columns=names).astype({"feature": "Int64"})


def _patch(explained: Explained, layer: int, i: int, patch: int) -> dict:
    feature = int(explained.dominant[layer]["feature"][i, patch])
    numbers = {
        "vanilla_relevance": explained.vanilla,
        "gated_relevance": explained.gated,
        "vanilla_map": explained.vanilla_map,
        "gated_map": explained.gated_map,
        "change": explained.change,
        "score": explained.scores[layer],
        "gate": explained.gates[layer],
        "activation": explained.dominant[layer]["activation"],
        "feature_gradient": explained.dominant[layer]["gradient"],
        "contribution": explained.dominant[layer]["contribution"],
    }
    row: dict[str, Any] = {name: float(values[i, patch]) for name, values in numbers.items()}
    direction = BOOST if row["change"] > 0 else SUPPRESS
    row |= {"feature": feature, "direction": direction} if feature >= 0 else {"feature": pd.NA, "direction": ""}
    return row | dict(zip(("patch", "row", "column"), (patch, *divmod(patch, explained.grid[1])), strict=True))


def file_name(image_id: str) -> str:
    """An image id in a form that can be part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", image_id)[-80:]


def feature_table(explained: Explained, cases: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """A row per layer and feature that is dominant in any patch of the explained images, the most frequent first.

    ``boosts`` and ``suppresses`` count all such patches of all images; ``…_most_changed`` count only those among the
    most changed patches of their image. Means and classes are over all such patches.
    """
    named = ["layer", "feature"]
    used = Counter(cases.dropna(subset=["feature"])[named].itertuples(index=False, name=None))
    rows = []
    for layer in explained.dominant:
        events = dominant_events(explained, layer)
        for feature, own in events.groupby("feature", sort=True):
            up = own["change"] > 0
            rows.append(
                {
                    **columns,
                    "layer": layer,
                    "feature": feature,
                    "boosts": int(up.sum()),
                    "suppresses": int((~up).sum()),
                    "boosts_most_changed": int((up & own["most_changed"]).sum()),
                    "suppresses_most_changed": int((~up & own["most_changed"]).sum()),
                    "images": own["image"].nunique(),
                    "mean_contribution": own["contribution"].mean(),
                    "mean_contribution_boosting": own["contribution"][up].mean(),
                    "mean_contribution_suppressing": own["contribution"][~up].mean(),
                    "mean_activation": own["activation"].mean(),
                    "mean_change": own["change"].mean(),
                    "boosted_classes": _most_frequent(own["class"][up], explained.classes),
                    "suppressed_classes": _most_frequent(own["class"][~up], explained.classes),
                    "cases": used.get((layer, feature), 0),
                    "page": f"layer_{layer}/features/feature_{feature}.png" if (layer, feature) in used else "",
                }
            )
    frame = pd.DataFrame(rows, columns=list(FEATURE_COLUMNS))
    total = frame["boosts"] + frame["suppresses"]
    order = frame.assign(total=-total).sort_values(["layer", "total", "feature"], kind="stable").index
    return frame.loc[order].reset_index(drop=True)


def dominant_events(explained: Explained, layer: int) -> pd.DataFrame:
    """A row per patch of the explained images that has a dominant feature at the layer."""
    own = explained.dominant[layer]
    image, patch = np.nonzero(own["feature"] >= 0)
    most = np.zeros(own["feature"].shape, dtype=bool)
    np.put_along_axis(most, explained.most_changed, True, axis=1)
    return pd.DataFrame(
        {
            "feature": own["feature"][image, patch],
            "image": image,
            "patch": patch,
            "class": explained.target[image],
            "change": explained.change[image, patch],
            "contribution": own["contribution"][image, patch].astype(np.float64),
            "activation": own["activation"][image, patch].astype(np.float64),
            "most_changed": most[image, patch],
        }
    )


def _most_frequent(classes: pd.Series, names: list[str]) -> str:
    counts = sorted(Counter(classes).items(), key=lambda entry: (-entry[1], entry[0]))
    return "; ".join(f"{names[label]} {count}" for label, count in counts[:MOST_CLASSES])
