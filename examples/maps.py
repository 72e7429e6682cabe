"""Draw the maps of several methods for a few images, from the results of the main job.

python examples/maps.py --dataset elpv --output maps.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that fgg need not be installed

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import fgg
from fgg import plot
from fgg.data.load import explained_split
from fgg.data.preprocess import Preprocess
from fgg.tables import matrix, read_json, read_settings, read_table


def main() -> None:
    """Read attributions and images, write one picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", default="elpv")
    parser.add_argument(
        "--images", type=Path, help="prepared split; by default the dataset's test split"
    )
    parser.add_argument(
        "--experiments",
        nargs="+",
        default=["random", "rollout", "transmm", "gated-l1.2-combined-c10-a1"],
    )
    parser.add_argument("--count", type=int, default=3, help="images, spread over the classes")
    parser.add_argument("--output", default="maps.png")
    arguments = parser.parse_args()

    files = {
        name: f"results/{arguments.dataset}/attributions/{name}.parquet"
        for name in arguments.experiments
    }
    tables = {name: read_table(file) for name, file in files.items()}
    first = next(iter(tables.values()))
    settings = read_settings(files[arguments.experiments[0]])
    images = arguments.images or Path(f"data/prepared/{arguments.dataset}/test.parquet")
    split = explained_split(images, settings)
    record = read_json(f"data/models/{arguments.dataset}/model.json")
    preprocess = Preprocess.from_dict(record["preprocess"])
    if first.column("image_id").to_pylist() != split.image_ids:
        sys.exit(
            f"error: {images} does not hold the images of {files[arguments.experiments[0]]}; see --images"
        )

    chosen = spread(
        np.asarray(first["predicted"]),
        np.asarray(first["confidence"]),
        split.labels,
        arguments.count,
    )
    figure, axes = plt.subplots(
        len(chosen), 1 + len(tables), figsize=(1.75 * (1 + len(tables)) + 0.4, 1.6 * len(chosen) + 0.3), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for row, index in zip(axes, chosen, strict=True):
        picture = split.picture(index)
        plot.show(picture, row[0], preprocess=preprocess)
        row[0].set_ylabel(
            f"{split.label_names[index]}\np = {first['confidence'][index].as_py():.2f}", fontsize=8
        )
        for axis, table in zip(row[1:], tables.values(), strict=True):
            relevance = matrix(table, "relevance")[index]
            plot.overlay(picture, relevance, axis, preprocess=preprocess, colorbar=False)
    for axis, text in zip(axes[0], ["image", *map(title, tables)], strict=True):
        axis.set_title(text, fontsize=9)
    drawn = axes[0, 1].images[-1]
    bar = figure.colorbar(drawn, ax=axes, fraction=0.03, pad=0.01, aspect=40)
    bar.set_ticks(drawn.get_clim(), labels=["none", "largest"], fontsize=8)
    bar.outline.set_visible(False)
    bar.ax.set_facecolor("0.55")
    bar.set_label("relevance within each map", fontsize=8, labelpad=-20)
    figure.savefig(arguments.output, dpi=150)


def title(experiment: str) -> str:
    """A short title of an experiment's id."""
    if experiment in fgg.methods():
        return fgg.methods()[experiment].title
    kind, _, rest = experiment.partition("-l")
    return f"{kind}, layers {rest.split('-')[0].replace('.', ' + ')}" if rest else experiment


def spread(
    predicted: np.ndarray, confidence: np.ndarray, labels: np.ndarray, count: int
) -> list[int]:
    """Images of all classes in turn, in each the correct and confident ones first, up to ``count``."""
    rank = np.where(predicted == labels, confidence, confidence - 1)
    queues = [
        sorted(np.flatnonzero(labels == label), key=lambda i: -rank[i])
        for label in sorted(set(labels.tolist()))
    ]
    turns = [
        int(queue[turn])
        for turn in range(max(map(len, queues)))
        for queue in queues
        if turn < len(queue)
    ]
    return turns[:count]


if __name__ == "__main__":
    main()
