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
from PIL import Image

from fgg.data.load import load_split
from fgg.tables import matrix, read_json, read_settings, read_table


def main() -> None:
    """Read attributions and images, write one picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", default="elpv")
    parser.add_argument("--images", type=Path, help="prepared split; by default the dataset's test split")
    parser.add_argument(
        "--experiments", nargs="+", default=["random", "rollout", "transmm", "gated-l1.2-combined-c10-a1"]
    )
    parser.add_argument("--count", type=int, default=3, help="images, spread over the predicted classes")
    parser.add_argument("--output", default="maps.png")
    arguments = parser.parse_args()

    tables = {
        name: read_table(f"results/{arguments.dataset}/attributions/{name}.parquet") for name in arguments.experiments
    }
    first = next(iter(tables.values()))
    settings = read_settings(f"results/{arguments.dataset}/attributions/{arguments.experiments[0]}.parquet")
    images = arguments.images or Path(f"data/prepared/{arguments.dataset}/test.parquet")
    split = load_split(images, settings["max_images"], settings["seed"])
    record = read_json(f"data/models/{arguments.dataset}/model.json")
    classes, (height, width) = record["classes"], record["preprocess"]["size"]

    chosen = spread(np.asarray(first["predicted"]), np.asarray(first["confidence"]), split.labels, arguments.count)
    figure, axes = plt.subplots(
        len(chosen), 1 + len(tables), figsize=(1.75 * (1 + len(tables)), 1.95 * len(chosen)), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for row, index in zip(axes, chosen, strict=True):
        picture = split.picture(index).convert("L")
        row[0].imshow(picture, cmap="gray")
        row[0].set_ylabel(f"{classes[split.labels[index]]}\np = {first['confidence'][index].as_py():.2f}", fontsize=8)
        for axis, (_name, table) in zip(row[1:], tables.items(), strict=True):
            relevance = matrix(table, "relevance")[index]
            overlay(axis, picture, relevance, side=round((relevance.size * height / width) ** 0.5))
    for axis, title in zip(axes[0], ["image", *tables], strict=True):
        axis.set_title(title.replace("-combined-c10-a1", "").replace("gated-l", "gated, layers "), fontsize=9)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.savefig(arguments.output, dpi=150)


def overlay(axis, picture: Image.Image, relevance: np.ndarray, side: int) -> None:
    """Relevance (N,) over a grey picture, from its smallest (dark) to its largest value (bright)."""
    grid = relevance.reshape(side, -1)
    span = np.ptp(grid) or 1.0
    scaled = Image.fromarray(((grid - grid.min()) / span).astype(np.float32)).resize(
        picture.size, Image.Resampling.BILINEAR
    )
    axis.imshow(picture, cmap="gray")
    axis.imshow(np.asarray(scaled), cmap="magma", alpha=0.6, vmin=0, vmax=1)


def spread(predicted: np.ndarray, confidence: np.ndarray, labels: np.ndarray, count: int) -> list[int]:
    """The most confident correct image of each class, classes in order, up to ``count``."""
    best = []
    for label in sorted(set(labels.tolist())):
        own = np.flatnonzero((predicted == label) & (labels == label))
        if len(own):
            best.append(int(own[confidence[own].argmax()]))
    return best[:count]


if __name__ == "__main__":
    main()
