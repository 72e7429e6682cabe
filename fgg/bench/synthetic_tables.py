"""Synthetic tables of scores, maps and responses, of any size, for measurements of the comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fgg.experiments import experiments
from fgg.faithfulness.registry import defaults
from fgg.tables import write_table

PATCHES, BINS, TRIALS, RUNS, SUBSET = 49, 13, 3, 20, 10  # of ViT-B/32 at 224 pixels
DATASET, BASELINE = "synthetic", "transmm"
GRID = {
    "baselines": [BASELINE, "random", "rollout", "gradcam", "tokentm"],
    "gated": {
        "layers": [[layer] for layer in range(12)],
        "construction": ["combined", "activation_only", "gradient_only", "no_sae"],
        "clamp_max": [10],
        "alpha": [1],
        "shuffle_decoder": [False, True],
    },
    "controls": ["permuted_gate", "sharpened", "gate_values", "gate_order", "powers"],
    "powers": [2],
}


def write(results: Path, images: int, count: int, classes: int = 2, undefined: float = 0.0) -> dict[str, Any]:
    """Write ``results/synthetic`` with all tables that the comparison reads; equal arguments give equal bytes.

    Args:
        images: number of images.
        count: number of experiments, the first ones of a grid of 114.
        classes: number of classes.
        undefined: share of images on which an experiment's Faithfulness Correlation is undefined.

    Returns:
        The settings of the comparison.
    """
    place, draw = results / DATASET, np.random.default_rng(0)
    grid = dict(list(experiments({"datasets": {DATASET: {}}, "experiments": GRID}, DATASET).items())[:count])
    ids = np.array([f"image{number:07d}" for number in range(images)])
    _responses(place, ids, draw)
    label = draw.integers(0, classes, images)
    facts = {
        "image_id": ids,
        "label": label,
        "predicted": np.where(draw.random(images) < 0.8, label, draw.integers(0, classes, images)),
        "relevance_ties": np.zeros(images, np.int64),
    }
    typical = {name: draw.normal(0.4, 0.2, images) for name in defaults()}
    for number, name in enumerate(grid):
        own = np.random.default_rng([1, number])
        _scores(place, name, facts, typical, 0.002 * (number % 11), undefined, own)
        relevance = own.random((images, PATCHES), dtype=np.float32)
        write_table(place / "attributions" / f"{name}.parquet", {"image_id": ids, "relevance": relevance}, {})
    return {
        "baseline": BASELINE,
        "protocol": "corrected",
        "precision": "fp32",
        "seed": 0,
        "experiments": {DATASET: list(grid.items())},
        "classes": {DATASET: [f"class{number}" for number in range(classes)]},
    }


def _scores(
    place: Path,
    name: str,
    facts: dict[str, np.ndarray],
    typical: dict[str, np.ndarray],
    shift: float,
    undefined: float,
    draw: np.random.Generator,
) -> None:
    images = len(facts["image_id"])
    columns: dict[str, np.ndarray] = dict(facts)
    for metric, scores in typical.items():
        noise = 0.0 if name == BASELINE else 0.06
        columns[metric] = scores + shift + noise * draw.standard_normal(images)
    if name != BASELINE:
        columns["faithfulness_correlation"][draw.random(images) < undefined] = np.nan
    columns["faithfulness_correlation_se"] = np.full(images, 0.05)
    columns["saco_bin_relevance"] = -np.sort(-draw.random((images, BINS)), axis=1)
    columns["saco_bin_drops"] = draw.random((images, BINS))
    write_table(place / "faithfulness" / f"{name}.parquet", columns, {"experiment": name})


def _responses(place: Path, ids: np.ndarray, draw: np.random.Generator) -> None:
    """The model's answers, and the table of measurable images: nine of ten are."""
    images = len(ids)
    drop = np.where(draw.random(images) < 0.9, 0.5, 0.0)
    columns = {"image_id": ids, "fill": np.full(images, "mean"), "target": np.zeros(images, np.int64)}
    columns |= {"probability": np.full(images, 0.9), "filled_probability": 0.9 - drop, "full_drop": drop}
    write_table(place / "images.parquet", columns | {"measurable": drop > 0}, {})
    subsets = draw.random((images, TRIALS * RUNS, PATCHES), dtype=np.float32).argsort(2)[:, :, :SUBSET]
    answers = {
        "subsets": subsets.reshape(images, -1).astype(np.int32),
        "drops": draw.random((images, TRIALS * RUNS), dtype=np.float32),
    }
    settings = {"fills": ["mean"], "trials": TRIALS, "runs": RUNS, "subset_size": SUBSET}
    write_table(place / "responses.parquet", {"image_id": ids} | answers, settings)
