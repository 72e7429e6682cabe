"""The sampling error of Faithfulness Correlation: its Monte-Carlo error against the number of random subsets.

    python examples/sampling_error.py --dataset elpv --output sampling-error.png

Draws many subsets for some images, cuts them into trials of R runs, and measures how much the score of one image
varies between trials.
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
import torch

from fgg import draw_subsets
from fgg.data.load import load_split
from fgg.faithfulness.faithfulness_correlation import correlate, responses
from fgg.models import model_files
from fgg.perturbation.engine import Perturber
from fgg.tables import matrix, read_settings, read_table


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", default="elpv")
    parser.add_argument("--experiment", default="transmm")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--subsets", type=int, default=960)
    parser.add_argument("--subset-size", type=int, default=20)
    parser.add_argument("--output", default="sampling-error.png")
    arguments = parser.parse_args()
    path = Path(f"results/{arguments.dataset}/attributions/{arguments.experiment}.parquet")
    table, settings = read_table(path), read_settings(path)
    model, preprocess, _ = model_files.load(f"data/models/{arguments.dataset}", torch.device("cpu"))
    split = load_split(
        f"data/prepared/{arguments.dataset}/test.parquet", settings["max_images"], settings["seed"]
    )
    relevance = torch.from_numpy(matrix(table, "relevance").copy())
    chosen = np.linspace(0, len(split) - 1, arguments.images).astype(int)
    drops, subsets = [], []
    for index in chosen:
        engine = Perturber(model, split.tensors(preprocess, [index]))
        drawn = draw_subsets(
            [split.image_ids[index]],
            engine.patches,
            1,
            arguments.subsets,
            arguments.subset_size,
            settings["seed"],
        )
        subsets.append(torch.from_numpy(drawn[:, 0]))
        drops.append(responses(engine, subsets[-1]))
    subsets, drops, relevance = torch.cat(subsets), torch.cat(drops), relevance[chosen]

    runs = [r for r in (10, 20, 40, 80, 160, 320) if arguments.subsets // r >= 3]
    errors = []
    for r in runs:
        trials = arguments.subsets // r
        scores = correlate(
            relevance,
            subsets[:, : trials * r].unflatten(1, (trials, r)),
            drops[:, : trials * r].unflatten(1, (trials, r)),
        )
        errors.append(
            scores.var(1).nanmean().sqrt().item()
        )  # the mean of a few deviations would be too small
        print(f"{r} runs: standard deviation of one trial {errors[-1]:.3f}")
    errors = np.array(errors)
    ticks = [
        t for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if errors.min() / 2 < t < errors.max() * 1.5
    ]
    figure, axis = plt.subplots(figsize=(4.6, 3.2), layout="constrained")
    axis.plot(runs, errors, "o-", color="#0072B2", label="one trial")
    axis.plot(runs, errors / 3**0.5, "s--", color="#D55E00", label="mean of three trials")
    axis.plot(
        runs,
        errors[0] * (runs[0] / np.array(runs)) ** 0.5,
        ":",
        color="0.4",
        label="1 / sqrt(runs)",
    )
    axis.set(
        xscale="log", yscale="log", xticks=runs, xticklabels=[str(r) for r in runs], yticks=ticks, yticklabels=[str(t) for t in ticks],
        xlabel="random subsets per trial (runs)", ylabel="standard error of one image's score",
        title=f"Faithfulness Correlation of {arguments.experiment}\n{arguments.dataset}, {arguments.images} images",
    )  # fmt: skip
    axis.minorticks_off()
    axis.legend(frameon=False)
    figure.savefig(arguments.output, dpi=150)


if __name__ == "__main__":
    main()
