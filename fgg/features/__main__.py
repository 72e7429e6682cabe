"""Delete the features of one SAE from the residual stream, and record what that does: ``python -m fgg.features``.

Reads a model's folder, an SAE and a prepared split. Writes a row per image, group of features and k, and a row per image
and feature that is deleted alone. See `fgg.features.groups` and `fgg.features.deletion`.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.data.load import explained_split
from fgg.data.read_ahead import ReadAhead
from fgg.features.deletion import NONE, Features, delete, features_of
from fgg.features.groups import Deletion, deletions, spread
from fgg.jobs.command import add_arguments, command
from fgg.models import model_files
from fgg.models.capture import capture
from fgg.models.device import IMAGES, JOB_THREADS, arithmetic, halved, images_per_batch, resolve, rows_per_batch
from fgg.models.explained_class import PREDICTED, explained_class
from fgg.progress import progress
from fgg.saes.provenance import model_record
from fgg.saes.sae import load_for
from fgg.tables import write_table

ALONE = "alone"
MOST_ALONE = 20  # features of an image that are deleted one by one
MOST_FLOATS = 2**26  # codes that are processed at once
COLUMNS = ("image_id", "target", "logit", "probability", "active", "group", "k", "draws")
CHANGES = ("logit_change", "absolute_change", "probability_change", "expected", "activation", "removed")
OF_ONE = ("image_id", "feature", "score", "expected", "activation", "logit_change", "probability_change")


@dataclass(frozen=True)
class Place:
    """Where features are deleted: after a layer, those of an SAE. ``rows`` is the number of images in a pass."""

    model: VisionTransformer
    sae: Any
    layer: int
    rows: int


@command
def main(argv: list[str] | None = None) -> None:
    """Delete the features of one SAE from the explained images."""
    parser = argparse.ArgumentParser(prog="python -m fgg.features", description=__doc__)
    add_arguments(
        parser,
        "model",
        "layer",
        images="the explained split (.parquet)",
        settings="JSON: counts, draws, max_images, seed, target, device, …",
        output="table to write, a row per image, group and k",
    )
    parser.add_argument("--sae", type=Path, required=True, help="SAE folder")
    parser.add_argument("--alone", type=Path, required=True, help="table to write, a row per image and single feature")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(JOB_THREADS)
    settings = arguments.settings
    device = resolve(settings["device"])
    model, preprocess, record = model_files.load(arguments.model, device)
    sae = load_for(arguments.sae, model, arguments.layer, model_record(record["architecture"], arguments.model))
    split = explained_split(arguments.images, settings)
    limit = settings.get("limit")
    if limit is not None and limit < len(split):  # a sample, which max_images does not bound
        step = len(split) // limit
        split = split.part(slice(0, step * limit, step))
    place = Place(model, sae, arguments.layer, rows_per_batch(model, device))
    tables: dict[str, list[Any]] = defaultdict(list)
    single: dict[str, list[Any]] = defaultdict(list)
    start, size, ahead = 0, images_per_batch(model, settings["batch_size"]), ReadAhead(split, preprocess, device)
    with arithmetic(settings["precision"], device), progress([], len(split), "feature deletion") as bar:
        while start < len(split):
            rows = slice(start, min(start + size, len(split)))
            inputs = ahead.batch(rows)
            own = explained_class(settings.get("target", PREDICTED), split.labels[rows], record["classes"])
            target = None if own is None else own.to(device)
            try:
                found = measure(place, inputs, target, split.image_ids[rows], settings)
            except torch.OutOfMemoryError:
                size = halved(size, IMAGES, model)
                place = Place(model, sae, arguments.layer, max(1, place.rows // 2))
                continue
            for table, part in zip((tables, single), found, strict=True):
                for name, values in part.items():
                    table[name] += values
            start = rows.stop
            bar.update(rows.stop - rows.start)
    made = {**settings, "layer": arguments.layer, "split": arguments.images.stem}
    write_table(arguments.output, _typed(tables, (*COLUMNS, *CHANGES)), made)
    write_table(arguments.alone, _typed(single, OF_ONE), made)


def measure(
    place: Place, images: Tensor, target: Tensor | None, image_ids: Sequence[str], settings: Mapping[str, Any]
) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """The columns of both tables for a batch of normalised images (B, C, H, W).

    Args:
        target: int64 (B,), the class explained; None takes the predicted one.
        settings: ``counts``, ``draws`` and ``seed``.
    """
    model, layer = place.model, place.layer
    seen = capture(model, images, target, layers=[layer])
    groups: dict[str, list[Any]] = defaultdict(list)
    single: dict[str, list[Any]] = defaultdict(list)
    patches = seen.residuals[layer].shape[1]
    step = max(1, MOST_FLOATS // (patches * len(place.sae.W_dec)))
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        features = features_of(model, place.sae, layer, seen.residuals[layer][part], seen.gradients[layer][part])
        of_images = {name: getattr(features, name).cpu().numpy() for name in ("scores", "activation", "expected")}
        plans = []
        for i, image_id in enumerate(image_ids[part]):
            scores, activation = of_images["scores"][i], of_images["activation"][i]
            key = (settings["seed"], "feature deletion", layer, image_id)
            plan = [Deletion("", 0, np.empty(0, np.int64))]  # without a deletion, for comparison
            plan += deletions(scores, activation, settings["counts"], settings["draws"], key)
            plan += [Deletion(ALONE, 1, np.array([one])) for one in spread(scores, activation, MOST_ALONE)]
            plans.append(plan)
        answers = _answers(place, features, plans, seen.target[part])
        for i, (plan, own) in enumerate(zip(plans, answers, strict=True)):
            values = {name: found[i] for name, found in of_images.items()}
            about = {"image_id": image_ids[part][i], "target": int(seen.target[part][i])}
            _group_rows(groups, plan, own, values, about)
            _single_rows(single, plan, own, values, about["image_id"])
    return groups, single


def _answers(
    place: Place, features: Features, plans: Sequence[Sequence[Deletion]], target: Tensor
) -> list[dict[str, np.ndarray]]:
    """Per image and deletion: the logit and probability of the explained class, and the share taken out; float64."""
    device, most = features.tokens.device, max(len(one.features) for plan in plans for one in plan)
    image = torch.tensor([i for i, plan in enumerate(plans) for _ in plan], device=device)
    deleted = torch.full((len(image), max(1, most)), NONE)
    for place_in_list, one in enumerate(one for plan in plans for one in plan):
        deleted[place_in_list, : len(one.features)] = torch.from_numpy(one.features)
    logits, share = delete(place.model, place.layer, features, image, deleted.to(device), place.rows)
    classes = target[image][:, None]
    columns = {
        "logit": logits.double().gather(1, classes)[:, 0],
        "probability": logits.double().softmax(-1).gather(1, classes)[:, 0],
        "removed": share.double(),
    }
    ends = np.cumsum([len(plan) for plan in plans])[:-1]
    parts = {name: np.split(values.cpu().numpy(), ends) for name, values in columns.items()}
    return [{name: own[i] for name, own in parts.items()} for i in range(len(plans))]


def _group_rows(
    table: dict[str, list[Any]],
    plan: Sequence[Deletion],
    answer: Mapping[str, np.ndarray],
    values: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
) -> None:
    """Append a row per group and k of an image; the draws of a random control are averaged."""
    places: dict[tuple[str, int], list[int]] = defaultdict(list)
    for at, one in enumerate(plan):
        if one.group not in ("", ALONE):
            places[one.group, one.k].append(at)
    clean = {name: float(answer[name][0]) for name in ("logit", "probability")}
    active = int((values["activation"] > 0).sum())
    for (group, k), own in places.items():
        change = answer["logit"][own] - clean["logit"]
        row = {
            **about,
            **clean,
            "active": active,
            "group": group,
            "k": k,
            "draws": len(own),
            "logit_change": change.mean(),
            "absolute_change": np.abs(change).mean(),
            "probability_change": (answer["probability"][own] - clean["probability"]).mean(),
            "removed": answer["removed"][own].mean(),
        }
        for name in ("expected", "activation"):
            row[name] = np.mean([values[name][plan[at].features].sum(dtype=np.float64) for at in own])
        for name, value in row.items():
            table[name].append(value)


def _single_rows(
    table: dict[str, list[Any]],
    plan: Sequence[Deletion],
    answer: Mapping[str, np.ndarray],
    values: Mapping[str, np.ndarray],
    image_id: str,
) -> None:
    """Append a row per feature of an image that is deleted alone."""
    for at, one in enumerate(plan):
        if one.group == ALONE:
            feature = int(one.features[0])
            row = {
                "image_id": image_id,
                "feature": feature,
                "score": values["scores"][feature],
                "expected": values["expected"][feature],
                "activation": values["activation"][feature],
                "logit_change": answer["logit"][at] - answer["logit"][0],
                "probability_change": answer["probability"][at] - answer["probability"][0],
            }
            for name, value in row.items():
                table[name].append(value)


def _typed(table: Mapping[str, list[Any]], names: Sequence[str]) -> dict[str, Any]:
    """The columns of a table with the types that hold even without rows: texts, int64, float64."""
    texts, whole = ("image_id", "group"), ("target", "active", "k", "draws", "feature")
    kinds: dict[str, Any] = {**dict.fromkeys(texts, object), **dict.fromkeys(whole, np.int64)}
    return {name: np.array(table.get(name, []), dtype=kinds.get(name, np.float64)) for name in names}


if __name__ == "__main__":
    sys.exit(main())
