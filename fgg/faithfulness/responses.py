"""The model's answers that Faithfulness Correlation needs: ``python -m fgg.faithfulness.responses``.

They do not depend on any relevance, so all experiments of a dataset share them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fgg.data.load import load_split
from fgg.faithfulness.faithfulness_correlation import draw_subsets, responses
from fgg.faithfulness.perturbation import Perturber
from fgg.jobs.command import add_arguments, command
from fgg.jobs.merge import write_empty
from fgg.jobs.shards import WHOLE, Shard
from fgg.models import model_files
from fgg.models.device import JOB_THREADS, arithmetic, images_per_batch, resolve
from fgg.progress import batches
from fgg.tables import write_table


@command
def main(argv: list[str] | None = None) -> None:
    """Draw the subsets, run the model, write the table."""
    parser = argparse.ArgumentParser(prog="python -m fgg.faithfulness.responses", description=__doc__)
    add_arguments(parser, "model", "images", "output", "shard", settings="JSON: runs, trials, subset_size, seed, …")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(JOB_THREADS)
    run(arguments.model, arguments.images, arguments.settings, arguments.output, arguments.shard)


def run(model_folder: Path, images: Path, settings: dict[str, Any], output: Path, shard: Shard = WHOLE) -> None:
    """Logit drops of every image of the split, or of a shard of it, to its random patch subsets."""
    device = resolve(settings["device"])
    model, preprocess, _ = model_files.load(model_folder, device)
    split = load_split(images, settings["max_images"], settings["seed"])
    size = images_per_batch(model, settings["batch_size"])
    split = split.part(shard.rows(len(split), size))
    if not len(split):
        return write_empty(output, settings)
    trials, runs, subset_size = settings["trials"], settings["runs"], settings["subset_size"]
    predicted, subsets, drops = [], [], []
    with arithmetic(settings["precision"], device):
        for part in batches(len(split), size, "responses"):
            engine = Perturber(model, split.tensors(preprocess, part).to(device))
            drawn = draw_subsets(
                split.image_ids[part], engine.patches, trials, runs, subset_size, settings["seed"]
            ).reshape(len(engine.images), trials * runs, subset_size)
            subsets.append(drawn.reshape(len(drawn), -1).astype(np.int32))
            drops.append(responses(engine, torch.from_numpy(drawn)).cpu().numpy())
            predicted.append(engine.clean.argmax(-1).cpu().numpy())
    columns = {"predicted": predicted, "subsets": subsets, "drops": drops}
    write_table(
        output,
        {"image_id": split.image_ids, **{name: np.concatenate(rows) for name, rows in columns.items()}},
        settings,
    )


if __name__ == "__main__":
    sys.exit(main())
