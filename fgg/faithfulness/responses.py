"""The model's responses that do not depend on any relevance: ``python -m fgg.faithfulness.responses``.

For each image and fill: the probability of the explained class, its probability with every patch filled, and the drops
of its logit for random patch subsets. For planted images also its probability without the cue, and without the decoy. All
experiments of a dataset share them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fgg.data.load import Split, explained_split
from fgg.data.preprocess import Preprocess
from fgg.data.read_ahead import ReadAhead
from fgg.faithfulness.checks import class_of, probability
from fgg.faithfulness.faithfulness_correlation import draw_subsets, responses
from fgg.faithfulness.measurable import CUES
from fgg.jobs.command import add_arguments, command
from fgg.jobs.merge import write_empty
from fgg.jobs.shards import WHOLE, Shard
from fgg.models import model_files
from fgg.models.device import JOB_THREADS, arithmetic, images_per_batch, resolve
from fgg.models.explained_class import PREDICTED, explained_class
from fgg.models.vit import patch_size
from fgg.perturbation.engine import Perturber
from fgg.perturbation.fills import channel_values, make_fill
from fgg.progress import batches
from fgg.tables import write_table


@command
def main(argv: list[str] | None = None) -> None:
    """Draw the subsets, run the model and write the table."""
    parser = argparse.ArgumentParser(prog="python -m fgg.faithfulness.responses", description=__doc__)
    add_arguments(
        parser, "model", "images", "output", "shard", settings="JSON: fills, target, runs, trials, subset_size, seed, …"
    )
    arguments = parser.parse_args(argv)
    torch.set_num_threads(JOB_THREADS)
    run(arguments.model, arguments.images, arguments.settings, arguments.output, arguments.shard)


def run(model_folder: Path, images: Path, settings: dict[str, Any], output: Path, shard: Shard = WHOLE) -> None:
    """Compute the responses for every explained image, or for a shard of them.

    Columns: ``image_id``, ``predicted``, ``target`` (the explained class), ``probability``, and for each fill
    ``filled_probability`` and ``drops`` (trials x runs float32), followed by ``@`` and the fill's name except for the
    first fill. ``drops`` and ``subsets`` (int32) exist only if ``runs`` is in the settings. ``probability_without_cue``
    and ``probability_without_decoy`` exist for planted images, NaN where an image has none.
    """
    device = resolve(settings["device"])
    model, preprocess, record = model_files.load(model_folder, device)
    channels = channel_values(preprocess, record.get("training_mean"))
    split = explained_split(images, settings)
    size = images_per_batch(model, settings["batch_size"])
    split = split.part(shard.rows(len(split), size))
    settings = {"fills": ["mean"], **settings}
    if not len(split):
        return write_empty(output, settings)
    planted = [name for name in CUES if split.has(f"without_{name}")]
    parts: list[dict[str, np.ndarray]] = []
    ahead = ReadAhead(split, preprocess, device)
    with arithmetic(settings["precision"], device):
        for rows in batches(len(split), size, "responses"):
            own = split.part(rows)
            engine = Perturber(model, ahead.batch(rows), compiled=settings.get("compile", False))
            chosen = explained_class(settings.get("target", PREDICTED), own.labels, record["classes"])
            target = class_of(engine, None if chosen is None else chosen.to(device))
            columns = {"predicted": engine.clean.argmax(-1), "target": target}
            columns["probability"] = probability(engine.clean[:, None], target)[:, 0]
            for name in planted:
                columns[f"probability_without_{name}"] = probability_without(name, own, engine, preprocess, target)
            drawn = _subsets(own.image_ids, engine.patches, settings)
            if drawn is not None:
                columns["subsets"] = drawn.flatten(1).int()
            for place, fill in enumerate(settings["fills"]):
                kind = make_fill(fill, engine.images, patch_size(model), channels, own.image_ids, settings["seed"])
                suffix = f"@{fill}" if place else ""
                columns[f"filled_probability{suffix}"] = filled_probability(engine, engine.using(kind), target)
                if drawn is not None:
                    columns[f"drops{suffix}"] = responses(engine.using(kind), drawn, target)
            parts.append({name: values.cpu().numpy() for name, values in columns.items()})
    table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return write_table(output, {"image_id": split.image_ids, **table}, settings)


def _subsets(image_ids: Sequence[str], patches: int, settings: dict[str, Any]) -> Tensor | None:
    """The random subsets of a batch, int64 (B, trials x runs, k); None if the settings have no ``runs``."""
    if "runs" not in settings:
        return None
    trials, runs, size = settings["trials"], settings["runs"], settings["subset_size"]
    drawn = draw_subsets(image_ids, patches, trials, runs, size, settings["seed"])
    return torch.from_numpy(drawn.reshape(len(image_ids), trials * runs, size))


def probability_without(name: str, split: Split, clean: Perturber, preprocess: Preprocess, target: Tensor) -> Tensor:
    """Probability of the class of planted images without their cue or decoy, float64 (B,); NaN where there is none.

    Args:
        name: ``cue`` or ``decoy``.
        split: the images of a batch.
        clean: an engine of the same images as they are.
        preprocess: how they became the model's input.
        target: classes, int64 (B,).

    Raises:
        FggError: the split has no such images, or one is damaged.
    """
    images = split.tensors(preprocess, column=f"without_{name}").to(clean.images)
    lacking = images.isnan().flatten(1).any(-1)
    # The batch keeps its size, since sums in a batch of another size can differ in the last bit.
    images = torch.where(lacking[:, None, None, None], clean.images, images)
    found = probability(Perturber(clean.model, images).clean[:, None], target)[:, 0]
    return torch.where(lacking, torch.nan, found)


def filled_probability(plain: Perturber, filled: Perturber, target: Tensor) -> Tensor:
    """Probability of the class when every patch is filled, float64 (B,).

    If the fill is removal and the model then has no tokens to read, every patch is filled with the image's mean.

    Args:
        plain: an engine of the images, without a fill of its own.
        filled: an engine of the same images with the fill.
    """
    everything = torch.ones(len(plain.images), 1, plain.patches, dtype=torch.bool, device=plain.images.device)
    found = probability(filled.logits(everything), target)[:, 0]
    if found.isnan().any():
        found = probability(plain.logits(everything), target)[:, 0]
    return found


if __name__ == "__main__":
    sys.exit(main())
