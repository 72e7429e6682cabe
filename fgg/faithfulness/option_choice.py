"""Choose an option of a method on the validation images: ``python -m fgg.faithfulness.option_choice``.

The rule: the candidate whose maps have the largest mean SRG with fill ``mean``, in about ten steps, on the measurable
images. No explained image takes part. Of equal candidates, the first is taken.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fgg.attribution.attribute import attribute
from fgg.attribution.registry import find_method
from fgg.data.load import load_split
from fgg.errors import FggError
from fgg.faithfulness.checks import probability
from fgg.faithfulness.order_curves import OrderCurves
from fgg.faithfulness.responses import filled_probability
from fgg.faithfulness.srg import srg_scores
from fgg.jobs.command import add_arguments, command
from fgg.models import model_files
from fgg.models.device import JOB_THREADS, arithmetic, images_per_batch, resolve
from fgg.models.explained_class import PREDICTED, explained_class
from fgg.perturbation.engine import Perturber
from fgg.progress import batches
from fgg.tables import write_json

STEPS = 10
RULE = "largest mean SRG (fill mean) on the measurable validation images"


@command
def main(argv: list[str] | None = None) -> None:
    """Score the maps of every candidate and write the choice."""
    parser = argparse.ArgumentParser(
        prog="python -m fgg.faithfulness.option_choice", description=__doc__.split("\n")[0]
    )
    add_arguments(
        parser, "model", "images", "experiment", "output", settings="JSON: seed, device, target, least_drop, …"
    )
    arguments = parser.parse_args(argv)
    torch.set_num_threads(JOB_THREADS)
    record = choice(arguments.model, arguments.images, arguments.experiment, arguments.settings)
    write_json(arguments.output, record, {"experiment": dict(arguments.experiment), **arguments.settings})
    print(f"{record['option']}: {record['options'][record['option']]}, of {record['scores']}")


def choice(
    model_folder: Path, images: Path, experiment: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The chosen value of an option and the scores of all candidates.

    Args:
        experiment: method, options and ``choose`` {option: candidates}.

    Raises:
        FggError: no image is measurable, or no candidate has a score.
    """
    ((option, candidates),) = experiment["choose"].items()
    device = resolve(settings["device"])
    model, preprocess, record = model_files.load(model_folder, device)
    split = load_split(images, settings["max_images"], settings["seed"])
    found: list[torch.Tensor] = []
    with arithmetic(settings["precision"], device):
        for rows in batches(len(split), images_per_batch(model, settings["batch_size"]), "images"):
            own = split.part(rows)
            inputs = own.tensors(preprocess).to(device)
            target = explained_class(settings.get("target", PREDICTED), own.labels, record["classes"])
            target = None if target is None else target.to(device)
            given = {"image_ids": own.image_ids, "seed": settings["seed"], **experiment.get("options", {})}
            maps = [
                attribute(model, inputs, experiment["method"], target=target, **given, **{option: value})
                for value in candidates
            ]
            engine = Perturber(model, inputs)
            measurable = _drop(engine, maps[0].target) >= settings["least_drop"]
            found.append(torch.stack([_scores(engine, each.relevance, each.target)[measurable] for each in maps]).cpu())
    scores = torch.cat(found, dim=1)
    count, means = scores.shape[1], scores.nanmean(1)
    if means.isnan().all():
        raise FggError(f"choose: no validation image of {images} can be measured; give {option} in `options` instead")
    best = int(means.nan_to_num(nan=float("-inf")).argmax())
    return {
        "method": find_method(experiment["method"]).name,
        "option": option,
        "options": {option: candidates[best]},
        "scores": {str(value): float(score) for value, score in zip(candidates, means, strict=True)},
        "rule": RULE,
        "n_images": count,
    }


def _scores(engine: Perturber, relevance: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """SRG, float64 (B,); NaN where the relevance is NaN."""
    return srg_scores(OrderCurves(engine, relevance, target), -(-engine.patches // STEPS))


def _drop(engine: Perturber, target: torch.Tensor) -> torch.Tensor:
    """How much the class's probability falls when everything is filled, float64 (B,)."""
    return probability(engine.clean[:, None], target)[:, 0] - filled_probability(engine, engine, target)


if __name__ == "__main__":
    sys.exit(main())
