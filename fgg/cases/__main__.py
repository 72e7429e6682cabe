"""Case studies of one gated experiment: ``python -m fgg.cases``.

Reads the workflow's results for the experiment and for TransMM, and the prototypes of the SAEs' features. Writes a
folder with cases.csv, features.csv, cases.json and the pictures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fgg.attribution.gate import Gate
from fgg.attribution.registry import methods
from fgg.cases import case_tables, choice
from fgg.cases.drawing import Album, Prototypes, draw_cases, draw_features
from fgg.cases.features import dominant_in_batch, join, most_changed, seen_relevance
from fgg.cases.pictures import Names
from fgg.cases.shares import sizes_of_terms, with_shares
from fgg.catalogue import CONSTRUCTIONS
from fgg.comparison.quality import LEVELS, folder_warning
from fgg.comparison.strata import ALL, MEASURABLE
from fgg.data.load import explained_split, load_split
from fgg.errors import FggError
from fgg.experiments import flat
from fgg.faithfulness.measurable import measurable_images
from fgg.faithfulness.measures import measures
from fgg.faithfulness.registry import Metric
from fgg.jobs.command import add_arguments, command
from fgg.models import model_files
from fgg.models.device import JOB_THREADS, arithmetic, images_per_batch, resolve
from fgg.models.vit import patch_size
from fgg.progress import batches
from fgg.report.experiment_names import label
from fgg.saes.provenance import model_record
from fgg.saes.sae import load_for
from fgg.tables import new_folder, write_csv, write_json


@command
def main(argv: list[str] | None = None) -> None:
    """Make the case studies of one experiment."""
    parser = argparse.ArgumentParser(prog="python -m fgg.cases", description=__doc__)
    add_arguments(
        parser,
        "model",
        "experiment",
        settings="JSON: per_category, patches, seed, …",
        images="the explained split (.parquet)",
        output="folder to write",
    )
    parser.add_argument("--prototype-images", type=Path, required=True, help="the prototypes' split (.parquet)")
    parser.add_argument("--sae", action="append", required=True, metavar="LAYER=FOLDER", help="SAE; repeatable")
    parser.add_argument(
        "--metrics", required=True, type=json.loads, help="JSON [[metric, [fills]], …]: what gains are counted by"
    )
    parser.add_argument("--results", type=Path, required=True, help="folder results/{dataset}")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--id", required=True, help="the experiment's id")
    parser.add_argument("--baseline", required=True, help="id of the experiment that gains are measured from")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(JOB_THREADS)
    gate = arguments.experiment.get("gate")
    if not gate or not CONSTRUCTIONS[gate["construction"]].needs_sae or arguments.experiment.get("control"):
        raise FggError(f"case studies need a gate that reads SAE features; {arguments.id!r} has none of its own")
    with new_folder(arguments.output) as folder:
        run(arguments, folder)


def run(arguments: argparse.Namespace, folder: Path) -> None:
    """Rank the measurable images by their gains with the first fill, find the features, and write tables and pictures.

    If too few images are measurable to fill the categories, all images are ranked, and ``cases.json`` says so.
    """
    settings, columns = arguments.settings, {"dataset": arguments.dataset, "experiment": arguments.id}
    split = explained_split(arguments.images, settings)
    first = {name: own for name, own in measures(dict(arguments.metrics)).items() if not own.suffix}
    metrics = {own.metric.name: own.metric for own in first.values()}
    fill = next((own.fill for own in first.values() if own.fill), "")
    gains = read_gains(arguments.results, split.image_ids, arguments.id, arguments.baseline, metrics)
    measurable = measurable_images(arguments.results, fill, gains.index)
    enough = measurable.sum() >= 2 * settings["per_category"]
    ranked = gains[measurable] if enough else gains
    composites = choice.composite(ranked).reindex(gains.index)
    selection = choice.select(composites, settings["per_category"], settings["seed"])
    device = resolve(settings["device"])
    model, preprocess, record = model_files.load(arguments.model, device)
    identity = model_record(record["architecture"], arguments.model)
    saes = saes_of(arguments, model, identity)
    explained = explain(arguments, model, preprocess, split, record["classes"], device, saes)

    cases = case_tables.case_table(explained, selection, gains, composites, columns)
    cases = with_shares(cases, sizes(arguments, model, preprocess, split, explained, cases["image_id"], device, saes))
    features = case_tables.feature_table(explained, cases, columns)
    write_csv(folder / "cases.csv", cases)
    write_csv(folder / "features.csv", features)
    levels = {**LEVELS, **settings.get("quality", {})}
    warnings = {layer: folder_warning(place, layer, levels) for layer, place in sae_folders(arguments).items()}
    for warning in filter(None, warnings.values()):
        print(f"warning: {warning}")
    counts = {
        "n_images": len(gains),
        "n_ranked": len(gains) - len(selection.unranked),
        "n_unranked": len(selection.unranked),
        "n_unmeasurable": int((~measurable).sum()),
        "ranked_on": MEASURABLE if enough else ALL,
        "n_without_feature": int(cases["feature"].isna().sum()),
    }
    selected = {"chosen": selection.chosen, "unranked": selection.unranked, "gains": choice.spread(ranked)}
    said = {"baseline": arguments.baseline, "warnings": list(filter(None, warnings.values()))}
    write_json(folder / "cases.json", {**columns, **said, **counts, **selected}, settings)

    titles = {name: metric.short or metric.title for name, metric in metrics.items()}
    split_name = arguments.prototype_images.stem
    names = Names(label(flat(arguments.experiment)), title(arguments.baseline), split_name, titles, warnings)
    album = Album(split, preprocess)
    others = Album(load_split(arguments.prototype_images), preprocess)
    wanted = {(layer, feature) for layer, feature in cases[["layer", "feature"]].dropna().itertuples(index=False)}
    prototypes = Prototypes(arguments.results / "prototypes", wanted, others, explained.grid)
    draw_cases(folder, explained, cases, names, album, prototypes)
    draw_features(folder, explained, cases, features, names, album, prototypes)


def read_gains(
    place: Path, image_ids: list[str], experiment: str, baseline: str, metrics: Mapping[str, Metric]
) -> pd.DataFrame:
    """The gains of an experiment, a row per image. Raises FggError for missing tables or other images."""
    scores = {}
    for name in (experiment, baseline):
        own = tuple(entry.name for entry in metrics.values() if entry.own)
        found = case_tables.read_rows(place / "faithfulness" / f"{name}.parquet", image_ids, own) if own else {}
        for entry in metrics.values():
            if not entry.own:
                path = place / "scores" / entry.name / f"{name}.parquet"
                found |= case_tables.read_rows(path, image_ids, (entry.name,))
        scores[name] = pd.DataFrame(found, index=image_ids)
    return choice.gains(scores[experiment], scores[baseline], metrics)


def sae_folders(arguments: argparse.Namespace) -> dict[int, Path]:
    """Layer -> folder of its SAE, from the options ``--sae``."""
    return {int(layer): Path(folder) for layer, folder in (entry.split("=", 1) for entry in arguments.sae)}


def title(baseline: str) -> str:
    """The readable name of the baseline."""
    return methods()[baseline].title if baseline in methods() else baseline


def saes_of(arguments: argparse.Namespace, model: Any, identity: Mapping[str, str]) -> dict[int, Any]:
    """Layer -> SAE, on the model's device. Raises FggError if one does not belong to this model and layer."""
    return {layer: load_for(folder, model, layer, identity) for layer, folder in sae_folders(arguments).items()}


def explain(
    arguments: argparse.Namespace,
    model: Any,
    preprocess: Any,
    split: Any,
    classes: list[str],
    device: torch.device,
    saes: Mapping[int, Any],
) -> case_tables.Explained:
    """Maps, gates and dominant features of all explained images; maps and gates are read from the tables."""
    settings, ids, gate = arguments.settings, split.image_ids, Gate(**arguments.experiment["gate"])
    maps, gates = arguments.results / "attributions", arguments.results / "gates" / f"{arguments.id}.parquet"
    gated = case_tables.read_rows(
        maps / f"{arguments.id}.parquet", ids, ("predicted", "confidence", "target", "relevance")
    )
    vanilla = case_tables.read_rows(maps / "transmm.parquet", ids, ("relevance",))["relevance"]
    applied = {layer: case_tables.read_rows(gates, ids, ("score", "gate"), layer) for layer in gate.layers}

    size, patch = preprocess.output_size, patch_size(model)
    grid = (size[0] // patch[0], size[1] // patch[1])
    before = seen_relevance(torch.from_numpy(vanilla), grid, size)
    after = seen_relevance(torch.from_numpy(gated["relevance"]), grid, size)
    change = after - before
    target = torch.from_numpy(gated["target"])
    parts = []
    with arithmetic(settings["precision"], device):
        for part in batches(len(ids), images_per_batch(model, settings["batch_size"]), "features"):
            inputs = split.tensors(preprocess, part).to(device)
            own = dominant_in_batch(model, inputs, gate, saes, change[part].to(device), target[part].to(device))
            parts.append(own)
    found = {layer: join([part[layer] for part in parts]) for layer in gate.layers}
    return case_tables.Explained(
        image_ids=ids,
        labels=split.labels,
        predicted=gated["predicted"],
        target=gated["target"],
        confidence=gated["confidence"],
        vanilla=vanilla,
        gated=gated["relevance"],
        vanilla_map=before.numpy(),
        gated_map=after.numpy(),
        most_changed=most_changed(change, settings["patches"]).numpy(),
        scores={layer: own["score"] for layer, own in applied.items()},
        gates={layer: own["gate"] for layer, own in applied.items()},
        dominant={
            layer: {name: getattr(own, name).cpu().numpy() for name in case_tables.DOMINANT}
            for layer, own in found.items()
        },
        grid=grid,
        classes=classes,
    )


def sizes(
    arguments: argparse.Namespace,
    model: Any,
    preprocess: Any,
    split: Any,
    explained: case_tables.Explained,
    image_ids: Iterable[str],
    device: torch.device,
    saes: Mapping[int, Any],
) -> dict[tuple[int, str], np.ndarray]:
    """Layer and image -> the sums of `sizes_of_terms` (N,), for some of the images."""
    gate = Gate(**arguments.experiment["gate"])
    found = {}
    with arithmetic(arguments.settings["precision"], device):
        for image_id in dict.fromkeys(image_ids):
            place = explained.image_ids.index(image_id)
            inputs = split.tensors(preprocess, [place]).to(device)
            target = torch.from_numpy(explained.target[[place]]).to(device)
            for layer, own in sizes_of_terms(model, inputs, gate, saes, target).items():
                found[layer, image_id] = own[0].cpu().numpy()
    return found


if __name__ == "__main__":
    sys.exit(main())
