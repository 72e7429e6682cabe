"""The lists of features: a table per layer, and the features that the case studies name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fgg.report.html import markdown, written
from fgg.visible import markdown_code

ASCENDING, DESCENDING = "ascending", "descending"


class Head(NamedTuple):
    """A column's head: its name, its CSS class, what it holds, and how the table is sorted by it at first."""

    name: str
    kind: str
    about: str
    sorted: str = ""


class Entry(NamedTuple):
    """A cell: its CSS class, its exact value, its readable value, and where it leads or what it pictures."""

    kind: str
    exact: str
    text: str
    link: str = ""
    picture: str = ""


LAYER_HEADS = (
    Head("patch", "", "the patch that activates the feature most"),
    Head("feature", "n", "number of the feature; leads to its page"),
    Head("name", "", "the user's own name"),
    Head(
        "score_share",
        "n",
        "mean over patches of |activation x gradient| of this feature, over the sum of all features",
        DESCENDING,
    ),
    Head("frequency", "n", "share of the patches on which it is active"),
    Head("mean_activation", "n", "mean over the patches on which it is active"),
    Head("max_activation", "n", "largest activation"),
    Head("class", "", "the class with the largest mean activation"),
    Head("cases", "n", "patches in the case studies of which it is the feature"),
)
CASE_HEADS = (
    Head("feature", "n", "leads to the feature's page"),
    Head("layer", "n", "block, from 0"),
    Head("name", "", "the user's own name of the feature"),
    Head("image_id", "", "leads to the picture of the case"),
    Head("patch", "n", "index of the patch, row by row"),
    Head("direction", "", "whether the feature boosts or suppresses the patch"),
    Head("change", "n", "change of the patch's relevance, of maps scaled from 0 to 1"),
    Head("share", "n", "share of the feature in the patch's score"),
    Head("category", "", "improved, degraded or drawn at random"),
    Head("rank", "n", "1 is the most extreme image"),
    Head("experiment", "", "id of the experiment; it tells the settings"),
)


def layer_list(
    dataset: str,
    layer: Any,
    cases: Mapping[int, int],
    thumbnails: Mapping[tuple[int, int], str],
    remarks: Sequence[str],
) -> dict[str, Any]:
    """What the template needs for the list of a layer's features, the largest share of the score first.

    Args:
        layer: a `fgg.cases.feature_pages.Layer`.
        cases: feature -> rows of the case studies that name it.
        thumbnails: (layer, feature) -> picture of its strongest patch.
        remarks: names that were not used.
    """
    about, table = layer.about, layer.table[layer.table["page"]]
    rows = []
    for row in table.sort_values("score_share", ascending=False, kind="stable").to_dict("records"):
        feature = int(row["feature"])
        means = row["class_mean"]
        top = about["classes"][int(np.nanargmax(means))] if np.nanmax(means, initial=0) > 0 else ""
        picture = thumbnails.get((layer.number, feature), "")
        rows.append(
            [
                Entry("", "", f"strongest patch of feature {feature}" if picture else "", picture=picture),
                Entry("n", str(feature), str(feature), f"feature_{feature}.html"),
                _text(layer.names.get(feature, "")),
                *(_share(row[name]) for name in ("score_share", "frequency")),
                *(_number(row[name]) for name in ("mean_activation", "max_activation")),
                _text(top),
                _number(cases.get(feature, 0)),
            ]
        )
    text = (
        f"{len(table)} of the {len(layer.table)} features have a page: those that the case studies name, and those with the "
        f"largest *share of the score*. That is the mean, over the patches of {about['explained_images']} images of the "
        f"{about['explained_split']} split, of the size of the feature's term (activation × gradient) over the sum of the "
        f"sizes of all terms. All features with a page together have {100 * table['score_share'].sum():.0f} % of the "
        f"score. Frequency and activations are over {sum(about['tokens']):,} patches of {about['images']} images of the "
        f"{about['split']} split.\n\nPlace: {markdown_code(about['hook'])} of {markdown_code(about['architecture'])}."
    )
    return {
        "title": f"Features of layer {layer.number}, {dataset}",
        "about": markdown(text),
        "up": True,
        "dataset": dataset,
        "layers": [],
        "columns": LAYER_HEADS,
        "rows": rows,
        "file": f"{dataset}_layer_{layer.number}_features.csv",
        "remarks": remarks,
    }


def case_list(dataset: str, layers: Sequence[Any], cases: pd.DataFrame, remarks: Sequence[str]) -> dict[str, Any]:
    """What the template needs for a dataset's first page: its layers, and the patches of its case studies."""
    names = {layer.number: layer.names for layer in layers}
    rows = []
    for row in cases.to_dict("records"):
        layer, feature = int(row["layer"]), int(row["feature"])
        rows.append(
            [
                Entry("n", str(feature), str(feature), f"layer_{layer}/feature_{feature}.html"),
                _number(layer),
                _text(names.get(layer, {}).get(feature, "")),
                _text(row["image_id"], f"../{row['picture']}"),
                _number(int(row["patch"])),
                _text(row["direction"]),
                _number(row["change"]),
                *([_share(row["share"])] if "share" in row else []),
                _text(row["category"]),
                _number(int(row["rank"])),
                _text(row["experiment"]),
            ]
        )
    return {
        "title": f"Features of {dataset}",
        "about": markdown("What the features of the SAEs respond to, and what they do in the gate."),
        "up": False,
        "dataset": dataset,
        "layers": [
            {"layer": own.number, "words": f"{len(own.pages)} of {len(own.table)} features, {own.about['kind']}"}
            for own in layers
        ],
        "columns": [head for head in CASE_HEADS if head.name != "share" or "share" in cases],
        "rows": rows,
        "file": f"{dataset}_features_in_cases.csv",
        "remarks": remarks,
    }


def _text(value: Any, link: str = "") -> Entry:
    exact, text = written(value)
    return Entry("", exact, text, link)


def _share(value: float) -> Entry:
    return Entry("n", written(value)[0], percent(value))


def percent(share: float) -> str:
    """A share in percent, with the digits that it deserves; a dash where it is undefined."""
    if not np.isfinite(share):
        return "–"
    if 0 < share < 0.0001:
        return "below 0.01 %"
    return f"{100 * share:.{1 if share >= 0.1 or share == 0 else 2}f} %"


def _number(value: Any) -> Entry:
    exact, text = written(value)
    return Entry("n", exact, text)
