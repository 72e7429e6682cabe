"""Which images can be measured: ``python -m fgg.faithfulness.measurable``. Does not import torch.

If the probability stays the same when every patch is filled, either nothing in the image caused that probability or
the fill does not remove the cause. Then no map of the image is more faithful than another. Such images are counted, and
the main verdicts leave them out.

Of planted images it is known what should cause the probability. They have two more rows, with the ``fill`` cue and decoy: the
image without the cue, and without the decoy. A metric that perturbs nothing is judged on the images whose cue the model
uses.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fgg.errors import FggError
from fgg.jobs.command import add_arguments, command
from fgg.tables import read_settings, read_table, write_table

CUES = ("cue", "decoy")  # what can be taken out of a planted image
LEAST_CUE_DROP = 0.25
COLUMNS = ("image_id", "fill", "target", "probability", "filled_probability", "full_drop", "measurable")


@command
def main(argv: list[str] | None = None) -> None:
    """Read the model's responses and write a row per image and fill."""
    parser = argparse.ArgumentParser(prog="python -m fgg.faithfulness.measurable", description=__doc__.split("\n")[0])
    add_arguments(parser, "output", settings="JSON: least_drop, least_cue_drop")
    parser.add_argument("--responses", type=Path, required=True, help="results/{dataset}/responses.parquet")
    arguments = parser.parse_args(argv)
    table = measurable(arguments.responses, arguments.settings)
    write_table(arguments.output, {name: table[name].to_numpy() for name in COLUMNS}, arguments.settings)


def measurable(responses: Path, settings: Mapping[str, Any]) -> pd.DataFrame:
    """A row per image and fill, with `COLUMNS`: the drop with all patches filled, and if it reaches ``least_drop``.

    Planted images also have a row for the cue, whose drop must reach ``least_cue_drop``, and one for the decoy. Without a
    cue, an image is not measurable by it.
    """
    answered, first = read_table(responses), read_settings(responses)["fills"]
    columns = {
        fill: f"filled_probability@{fill}" if place else "filled_probability" for place, fill in enumerate(first)
    }
    without = {name: f"probability_without_{name}" for name in CUES}
    columns |= {name: column for name, column in without.items() if column in answered.column_names}
    fills = list(columns)
    least = {"cue": settings.get("least_cue_drop", LEAST_CUE_DROP)}
    parts = []
    for fill, column in columns.items():
        probability = answered["probability"].to_numpy()
        filled = answered[column].to_numpy()
        parts.append(
            pd.DataFrame(
                {
                    "image_id": answered["image_id"].to_pylist(),
                    "fill": fill,
                    "target": answered["target"].to_numpy(),
                    "probability": probability,
                    "filled_probability": filled,
                    "full_drop": probability - filled,
                    "measurable": probability - filled >= least.get(fill, settings["least_drop"]),
                }
            )
        )
    order = np.arange(len(answered)).repeat(len(fills)).reshape(-1, len(fills))
    places = order + len(answered) * np.arange(len(fills))
    return pd.concat(parts, ignore_index=True).iloc[places.reshape(-1)].reset_index(drop=True)


def measurable_images(place: str | Path, fill: str, image_ids: pd.Index) -> np.ndarray:
    """Whether each of these images is measurable with a fill: bool (n,).

    Args:
        place: the folder with ``images.parquet``.
        fill: the fill; empty for a metric that perturbs nothing. It measures the images whose cue the model uses, and every
            image of a dataset without planted cues.

    Raises:
        FggError: the table lacks the fill, or one of the images.
    """
    path = Path(place) / "images.parquet"
    if not fill and not path.exists():  # nothing was asked of the model
        return np.ones(len(image_ids), dtype=bool)
    table = read_table(path, ["image_id", "fill", "measurable"]).to_pandas()
    fill = fill or ("cue" if (table["fill"] == "cue").any() else "")
    if not fill:
        return np.ones(len(image_ids), dtype=bool)
    own = table[table["fill"] == fill].set_index("image_id")["measurable"]
    if missing := len(image_ids.difference(own.index)):
        raise FggError(f"{path} lacks {missing} images with the fill {fill}; delete it and run the workflow again")
    return own.loc[image_ids].to_numpy(dtype=bool)


if __name__ == "__main__":
    sys.exit(main())
