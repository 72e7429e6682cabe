"""Synthetic scores of a grid of 24 experiments, with the tables that the comparison reads: scores, maps, answers, images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fgg.experiments import experiments
from fgg.tables import write_table

GRID = {
    "baselines": ["random", "rollout", "gradcam", "tokentm", "transmm"],
    "gated": {
        "layers": [[2], [1, 2]],
        "construction": ["combined", "activation_only", "gradient_only", "no_sae"],
        "clamp_max": [10],
        "alpha": [1],
        "shuffle_decoder": [False, True],
    },
    "controls": ["permuted_gate", "sharpened", "gate_values", "gate_order", "powers"],
    "powers": [2],
}
EXPERIMENTS = experiments({"datasets": {"toy": {}}, "experiments": GRID}, "toy")
METRICS = ("saco", "faithfulness_correlation", "pixel_flipping")
SAME_ORDER = ("-sharpened", "-values", "-p2")  # of the names of controls with TransMM's order
PATCHES, BINS, TRIALS, RUNS, SUBSET = 12, 4, 2, 6, 3
UNMEASURABLE = 4  # the last images
FAR = {"random": 6.0, "rollout": 3.0, "gradcam": 4.0, "tokentm": 0.4}  # how much worse than transmm


def write(results: Path, images: int, undefined: int = 0) -> dict:
    """Write the tables of ``results/toy``; return the comparison's settings. Row order differs per file."""
    rng = np.random.default_rng(7)
    ids = np.array([f"image{i:04d}" for i in range(images)])
    label, predicted = rng.integers(0, 2, images), rng.integers(0, 2, images)
    base = {
        "saco": rng.normal(0.25, 0.2, images),
        "faithfulness_correlation": rng.normal(-0.05, 0.2, images),
        "pixel_flipping": rng.uniform(0.2, 0.7, images),
    }
    relevance = rng.random((images, PATCHES), dtype=np.float32)
    _write_images_and_answers(results / "toy", ids, rng)
    for number, name in enumerate(EXPERIMENTS):
        worse = FAR.get(name, -0.1 * (number % 5) if name.startswith("gated") else 0.0)
        shift = {"saco": -0.05 * worse, "faithfulness_correlation": -0.04 * worse, "pixel_flipping": 0.03 * worse}
        noise = 0.0 if name == "transmm" else 0.06 * (1 + (name in FAR))
        scores = {m: base[m] + shift[m] + rng.normal(0, 1, images) * noise for m in base}
        own = rng.random((images, PATCHES), dtype=np.float32)
        if name == "transmm" or name.endswith(SAME_ORDER):
            scores["pixel_flipping"] = base["pixel_flipping"]
            own = relevance
        if name.endswith("-p2"):
            own = relevance**2
        if name == "gradcam":
            scores["faithfulness_correlation"][:undefined] = np.nan
        steps = np.linspace(0, 1, 101)
        curve = 0.15 + 0.8 * np.exp(-steps[None] / scores["pixel_flipping"][:, None].clip(0.05))
        order = rng.permutation(images)
        columns = {
            "image_id": ids,
            "label": label,
            "predicted": predicted,
            "confidence": np.full(images, 0.9),
            **scores,
            "faithfulness_correlation_sd": np.full(images, 0.1),
            "faithfulness_correlation_se": np.full(images, 0.05),
            "pixel_flipping_curve": curve.astype(np.float32),
            "relevance_ties": np.where(np.arange(images) < 3, 5, 0) if name == "gradcam" else np.zeros(images, int),
            "saco_equal_drops": np.zeros(images, int),
            "saco_bin_relevance": -np.sort(-own.astype(np.float64).reshape(images, BINS, -1).sum(2), axis=1),
            "saco_bin_drops": -np.sort(-rng.random((images, BINS)), axis=1) + 0.2 * rng.random((images, BINS)),
            "faithfulness_correlation_undefined": np.zeros(images, int),
        }
        path = results / "toy" / "faithfulness" / f"{name}.parquet"
        write_table(path, {k: v[order] for k, v in columns.items()}, {"experiment": name})
        maps = results / "toy" / "attributions" / f"{name}.parquet"
        write_table(maps, {"image_id": ids[order], "relevance": own[order]}, {})
    return {
        "baseline": "transmm",
        "protocol": "corrected",
        "precision": "fp32",
        "seed": 0,
        "experiments": {"toy": EXPERIMENTS},
        "metrics": {"toy": [[name, ["mean"]] for name in METRICS]},
    }


def _write_images_and_answers(place: Path, ids: np.ndarray, rng: np.random.Generator) -> None:
    images = len(ids)
    measurable = np.arange(images) < images - UNMEASURABLE
    drop = np.where(measurable, 0.5, 0.0)
    columns = {"image_id": ids, "fill": np.full(images, "mean"), "target": np.zeros(images, int)}
    columns |= {"probability": np.full(images, 0.9), "filled_probability": 0.9 - drop, "full_drop": drop}
    write_table(place / "images.parquet", columns | {"measurable": measurable}, {})
    drawn = rng.random((images, TRIALS * RUNS, PATCHES)).argsort(2)[:, :, :SUBSET].astype(np.int32)
    answers = {"subsets": drawn.reshape(images, -1), "drops": rng.random((images, TRIALS * RUNS)).astype(np.float32)}
    settings = {"fills": ["mean"], "trials": TRIALS, "runs": RUNS, "subset_size": SUBSET}
    write_table(place / "responses.parquet", {"image_id": ids} | answers, settings)


@pytest.fixture(scope="session")
def write_scores():
    """The function that writes synthetic scores."""
    return write


@pytest.fixture
def results(tmp_path):
    """A results folder of 40 images, gradcam's Faithfulness Correlation undefined on 4, and its settings."""
    settings = write(tmp_path / "results", 40, undefined=4)
    return tmp_path / "results", settings
