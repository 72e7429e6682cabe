"""A figure of an SAE's features: the patches that activate some of them most."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from fgg.cases.drawing import Album, Prototypes
from fgg.cases.feature_names import NAMES_FILE, read_feature_names
from fgg.cases.layout import LEFT, figure, head, save, say, start_of, tile
from fgg.data.load import load_split
from fgg.data.preprocess import Preprocess
from fgg.models import model_files
from fgg.models.vit import patch_size
from fgg.report.figures import style
from fgg.tables import atomic, read_json, read_settings, read_table

FEATURES, ACROSS = 10, 6  # features, and patches of each


def feature_sheet(directory: Path, dataset: str, layer: int, path: Path) -> str | None:
    """Draw the prototypes of the features with the largest share of the gate's score.

    Without the statistics of the features, those with the strongest patches are drawn.

    Args:
        directory: the folder of the run.
        path: the PNG to write.

    Returns:
        What the figure shows, in words; None if the run has no prototypes, or their images or model are not there.
    """
    results, table = directory / "results" / dataset, directory / f"results/{dataset}/prototypes/layer_{layer}.parquet"
    model = directory / "data/models" / dataset
    if not table.is_file() or not (model / "model.json").is_file():
        return None
    split = directory / "data/prepared" / dataset / f"{read_settings(table)['split']}.parquet"
    if not split.is_file():
        return None
    record = read_json(model / "model.json")
    preprocess = Preprocess.from_dict(record["preprocess"])
    patch, size = patch_size(model_files.blank(record)), preprocess.output_size
    grid = (size[0] // patch[0], size[1] // patch[1])
    features, chosen = _features(results, layer, read_table(table).to_pandas())
    if not features:
        return None
    album = Album(load_split(split), preprocess)
    prototypes = Prototypes(table.parent, {(layer, feature) for feature in features}, album, grid)
    names = read_feature_names(directory / NAMES_FILE).of_layer(dataset, layer)
    side, line = 0.8, 1.2
    with figure(0.6 + line * len(features)) as (fig, place):
        head(fig, f"Features of layer {layer}", f"The patches of the {split.stem} split that activate them most")
        for row, feature in enumerate(features):
            top = 0.55 + row * line
            say(fig, LEFT, top + 0.15, f"feature {feature}", weight="bold")
            say(fig, LEFT, top + 0.33, start_of(names.get(feature, ""), 18))
            for at, own in enumerate(prototypes(layer, feature)[:ACROSS]):
                tile(place(LEFT + 1.1 + at * (side + 0.15), top, side, side), own, style.YELLOW)
        with atomic(path) as temporary:
            save(fig, temporary)
    return f"patches of the {split.stem} split that activate {len(features)} features most; {chosen}"


def _features(results: Path, layer: int, table: pd.DataFrame) -> tuple[list[int], str]:
    """The features to draw, and by what they are chosen."""
    statistics = results / f"feature_statistics/layer_{layer}.parquet"
    if statistics.is_file():
        own = read_table(statistics, columns=["feature", "score_share"]).to_pandas()
        own = own[own["feature"].isin(table["feature"])].sort_values("score_share", ascending=False, kind="stable")
        chosen = "the features have the largest share of the gate's score"
    else:
        own = table[table["rank"] == 1].sort_values("activation", ascending=False, kind="stable")
        chosen = "the features have the largest activations"
    return [int(feature) for feature in own["feature"].head(FEATURES)], chosen
