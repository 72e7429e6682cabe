"""Faithfulness of one experiment's attributions, by the three metrics: ``python -m fgg.faithfulness``."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from fgg.data.load import load_split
from fgg.errors import FggError
from fgg.faithfulness import faithfulness_correlation, pixel_flipping, saco
from fgg.faithfulness.checks import tied_patches
from fgg.faithfulness.perturbation import Perturber
from fgg.faithfulness.settings_checks import number_of_bins
from fgg.jobs.command import add_arguments, command
from fgg.jobs.merge import write_empty
from fgg.jobs.shards import WHOLE, Shard
from fgg.models import model_files
from fgg.models.device import JOB_THREADS, arithmetic, images_per_batch, resolve
from fgg.progress import batches
from fgg.tables import matrix, read_table, write_table


@command
def main(argv: list[str] | None = None) -> None:
    """Score one experiment."""
    parser = argparse.ArgumentParser(prog="python -m fgg.faithfulness", description=__doc__)
    add_arguments(parser, "model", "images", "output", "shard", settings="JSON: metrics, protocol, device, …")
    parser.add_argument("--attributions", type=Path, required=True, help="relevance table of the experiment")
    parser.add_argument("--responses", type=Path, required=True, help="response table of the dataset")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(JOB_THREADS)
    run(
        arguments.model,
        arguments.images,
        arguments.attributions,
        arguments.responses,
        arguments.settings,
        arguments.output,
        arguments.shard,
    )


def run(
    model_folder: Path,
    images: Path,
    attributions: Path,
    responses: Path,
    settings: dict[str, Any],
    output: Path,
    shard: Shard = WHOLE,
) -> None:
    """Score every image of the split, or of a shard of it, and write one row for each.

    The tables of attributions and responses hold all images of the split.
    """
    device = resolve(settings["device"])
    model, preprocess, _ = model_files.load(model_folder, device)
    split = load_split(images, settings["max_images"], settings["seed"])
    explained = read_table(attributions, ["image_id", "label", "predicted", "confidence", "relevance"])
    answered = read_table(responses, ["image_id", "predicted", "subsets", "drops"])
    for path, table in ((attributions, explained), (responses, answered)):
        if table["image_id"].to_pylist() != split.image_ids:
            raise FggError(f"{path} holds other images than {images}; run the workflow again to rebuild it")
        if table["predicted"].to_pylist() != explained["predicted"].to_pylist():
            raise FggError(f"{path} was made with another model than {attributions}; run the workflow again")
    size = images_per_batch(model, settings["batch_size"])
    own = shard.rows(len(split), size)
    split, explained, answered = split.part(own), explained[own], answered[own]
    if not len(split):
        return write_empty(output, settings)
    relevance = torch.from_numpy(matrix(explained, "relevance").copy()).to(device)
    target = torch.from_numpy(np.asarray(explained["predicted"]).copy()).to(device)
    metrics, protocol = settings["metrics"], settings["protocol"]
    columns: dict[str, list[torch.Tensor]] = defaultdict(list)
    with arithmetic(settings["precision"], device):
        for part in batches(len(split), size, "faithfulness"):
            engine = Perturber(model, split.tensors(preprocess, part).to(device))
            coherence = saco.evaluate(
                engine, relevance[part], target[part], number_of_bins(engine.patches, metrics["saco"]), protocol
            )
            flipped = pixel_flipping.evaluate(
                engine,
                relevance[part],
                target[part],
                metrics["pixel_flipping"]["patches_per_step"],
                protocol=protocol,
            )
            scores = correlation_scores(relevance[part], answered[part], metrics["faithfulness_correlation"], protocol)
            scores |= {
                "relevance_ties": tied_patches(relevance[part]),
                "saco": coherence.score,
                "saco_equal_drops": coherence.equal_drops,
                "pixel_flipping": flipped.auc,
                "pixel_flipping_curve": flipped.curve.float(),
            }
            for name, values in scores.items():
                columns[name].append(values.cpu())
    found = {name: torch.cat(parts).numpy() for name, parts in columns.items()}
    kept = {name: explained[name].combine_chunks() for name in ("image_id", "label", "predicted", "confidence")}
    write_table(output, {**kept, **ordered(found)}, settings)


def correlation_scores(
    relevance: torch.Tensor, answered: pa.Table, settings: dict[str, Any], protocol: str
) -> dict[str, torch.Tensor]:
    """Faithfulness Correlation per image: mean over trials, their spread, the mean's error, undefined trials."""
    trials, runs, size = settings["trials"], settings["runs"], settings["subset_size"]
    subsets = torch.from_numpy(matrix(answered, "subsets").copy()).view(-1, trials, runs, size)
    drops = torch.from_numpy(matrix(answered, "drops").copy()).to(relevance.device).view(-1, trials, runs)
    scores = faithfulness_correlation.correlate(relevance, subsets.to(relevance.device), drops, protocol)
    spread = scores.std(1, correction=1) if trials > 1 else torch.full_like(scores[:, 0], torch.nan)
    return {
        "faithfulness_correlation": scores.mean(1),
        "faithfulness_correlation_sd": spread,
        "faithfulness_correlation_se": spread / trials**0.5,
        "faithfulness_correlation_undefined": scores.isnan().sum(1),
    }


def ordered(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns in the order of the contract: scores, then counts, then the curve."""
    names = [
        "saco",
        "faithfulness_correlation",
        "faithfulness_correlation_sd",
        "faithfulness_correlation_se",
        "pixel_flipping",
        "relevance_ties",
        "saco_equal_drops",
        "faithfulness_correlation_undefined",
        "pixel_flipping_curve",
    ]
    return {name: found[name] for name in names}


if __name__ == "__main__":
    sys.exit(main())
