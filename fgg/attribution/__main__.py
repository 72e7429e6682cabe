"""Attributions of one experiment: ``python -m fgg.attribution``.

Reads a model's folder, a prepared split and the SAEs; writes the relevance of every image, and the gates.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fgg.attribution import sanity
from fgg.attribution.attribute import Attribution, Gate, attribute
from fgg.catalogue import SANITY
from fgg.data.load import Split, load_split
from fgg.degeneracy import MeaninglessGate, measured, note
from fgg.errors import FggError
from fgg.jobs.command import add_arguments, command
from fgg.jobs.merge import write_empty
from fgg.jobs.shards import WHOLE, Shard
from fgg.models import model_files
from fgg.models.capture import capture
from fgg.models.device import JOB_THREADS, arithmetic, images_per_batch, resolve
from fgg.progress import batches
from fgg.saes.sae import load_sae
from fgg.tables import write_table


@command
def main(argv: list[str] | None = None) -> None:
    """Run one experiment."""
    parser = argparse.ArgumentParser(prog="python -m fgg.attribution", description=__doc__)
    add_arguments(parser, "model", "images", "experiment", "shard", settings="JSON: seed, device, precision, …")
    parser.add_argument(
        "--sae", action="append", default=[], type=_sae, metavar="LAYER=FOLDER", help="SAE of a layer; repeatable"
    )
    parser.add_argument("--relevance", type=Path, required=True, help="table to write")
    parser.add_argument("--gates", type=Path, help="table of gates to write")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(JOB_THREADS)
    warnings.simplefilter("ignore", MeaninglessGate)
    run(
        arguments.model,
        arguments.images,
        dict(arguments.sae),
        arguments.experiment,
        arguments.settings,
        arguments.relevance,
        arguments.gates,
        arguments.shard,
    )


def _sae(text: str) -> tuple[int, Path]:
    layer, _, folder = text.partition("=")
    if not (layer.isdecimal() and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form LAYER=FOLDER, such as 2=data/saes/elpv/layer_2")
    return int(layer), Path(folder)


def run(
    model_folder: Path,
    images: Path,
    sae_folders: dict[int, Path],
    experiment: dict[str, Any],
    settings: dict[str, Any],
    relevance: Path,
    gates: Path | None = None,
    shard: Shard = WHOLE,
) -> None:
    """Attribute every image of the split, or of a shard of it, batch by batch, and write the tables."""
    device = resolve(settings["device"])
    model, preprocess, record = model_files.load(model_folder, device)
    remark = note(experiment, measured(record["layers"]))
    if remark:
        print(f"warning: {remark}", file=sys.stderr)
    saes = {layer: load_sae(folder).to(device) for layer, folder in sae_folders.items()}
    gate = Gate(**experiment["gate"]) if "gate" in experiment else None
    control = experiment.get("control")
    explained = model
    if control == "randomized_model":
        explained = sanity.randomized_model(record, settings["seed"]).to(device)
    elif control == "randomized_sae":
        saes = {layer: sanity.randomized_sae(sae, settings["seed"], layer) for layer, sae in saes.items()}
    split = load_split(images, settings["max_images"], settings["seed"])
    size = images_per_batch(model, settings["batch_size"])
    split = split.part(shard.rows(len(split), size))
    parts = []
    with arithmetic(settings["precision"], device):
        for part in batches(len(split), size, "attribution"):
            inputs = split.tensors(preprocess, part).to(device)
            # A randomised model is asked about the class that the real one predicts.
            said = capture(model, inputs) if explained is not model else None
            found = attribute(
                explained,
                inputs,
                experiment["method"],
                gate,
                saes,
                None if said is None else said.predicted,
                control=None if control in SANITY else control,
                image_ids=split.image_ids[part],
                seed=settings["seed"],
                batch_size=size,
            )
            if said is not None:
                found = replace(found, predicted=said.predicted, confidence=said.confidence, logits=said.logits)
            parts.append(found)
    note_made = {"experiment": experiment, **settings, "note": remark}
    write(relevance, gates, split, parts, note_made)


def write(relevance: Path, gates: Path | None, split: Split, parts: list[Attribution], made: dict[str, Any]) -> None:
    """Write the relevance, and the gates where asked for."""
    if not parts:
        for path in (relevance, *([gates] if gates else [])):
            write_empty(path, made)
        return
    write_table(
        relevance,
        {
            "image_id": split.image_ids,
            "label": split.labels,
            "predicted": np.concatenate([part.predicted.cpu().numpy() for part in parts]),
            "confidence": np.concatenate([part.confidence.cpu().numpy() for part in parts]),
            "relevance": np.concatenate([part.relevance.cpu().numpy() for part in parts]),
        },
        made,
    )
    if gates is None:
        return
    if not parts[0].gates:
        raise FggError("--gates: this experiment has no gate")
    layers = sorted(parts[0].gates)
    stacked = {
        name: np.stack(
            [
                np.concatenate([getattr(part, f"{name}s")[layer].float().cpu().numpy() for part in parts])
                for layer in layers
            ],
            axis=1,
        )
        for name in ("score", "gate")
    }
    write_table(
        gates,
        {
            "image_id": np.repeat(split.image_ids, len(layers)),
            "layer": np.tile(np.array(layers, dtype=np.int64), len(split)),
            **{name: values.reshape(-1, values.shape[-1]) for name, values in stacked.items()},
        },
        made,
    )


if __name__ == "__main__":
    sys.exit(main())
