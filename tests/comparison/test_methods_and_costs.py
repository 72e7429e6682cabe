"""The table of methods with their costs, and metrics judged by maps of known content."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from fgg.comparison.__main__ import main
from fgg.comparison.costs import passes
from fgg.statistics.proportion import wilson
from fgg.tables import write_table

METRICS = {"saco": ["mean"], "pixel_flipping": ["mean"], "average_precision": []}
GRID = {
    "transmm": {"method": "transmm"},
    "occlusion": {"method": "occlusion"},
    "integrated_gradients": {"method": "integrated_gradients", "options": {"steps": 5}},
    "cue_map": {"method": "cue_map"},
    "decoy_map": {"method": "decoy_map"},
}
IMAGES, PATCHES = 30, 9
USED = 24  # images on which the model uses the cue


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The tables of a comparison of made-up scores."""
    folder = tmp_path_factory.mktemp("methods")
    rng = np.random.default_rng(1)
    ids = np.array([f"image{i:02}" for i in range(IMAGES)])
    plain = {"image_id": ids, "label": np.zeros(IMAGES, np.int64), "predicted": np.zeros(IMAGES, np.int64)}
    better = rng.random(IMAGES) < 0.8
    for name in GRID:
        scores = {metric: rng.random(IMAGES) for metric in METRICS}
        if name == "cue_map":  # SaCo is right on most images, Pixel Flipping never, average precision ties
            scores = {"saco": np.where(better, 1.0, -1.0), "pixel_flipping": np.full(IMAGES, 0.9)}
            scores["average_precision"] = np.full(IMAGES, 0.5)
        if name == "decoy_map":
            scores = {"saco": np.zeros(IMAGES), "pixel_flipping": np.full(IMAGES, 0.1)}
            scores["average_precision"] = np.where(np.arange(IMAGES) < 3, np.nan, 0.5)
        ties = {"relevance_ties": np.zeros(IMAGES, np.int64)}
        weights = {"saco_bin_drops": rng.random((IMAGES, 3)), "saco_bin_relevance": rng.random((IMAGES, 3))}
        write_table(folder / f"toy/faithfulness/{name}.parquet", {**plain, **scores, **ties, **weights}, {})
        residual = {"completeness_residual": np.linspace(-1, 1, IMAGES)} if name == "integrated_gradients" else {}
        maps = {**plain, "relevance": rng.random((IMAGES, PATCHES), dtype=np.float32), **residual}
        write_table(folder / f"toy/attributions/{name}.parquet", maps, {})
    rows = [
        (name, fill, i < (USED if fill == "cue" else IMAGES)) for i, name in enumerate(ids) for fill in ("mean", "cue")
    ]
    names, fills, measurable = map(np.array, zip(*rows, strict=True))
    write_table(folder / "toy/images.parquet", {"image_id": names, "fill": fills, "measurable": measurable}, {})
    settings = {"baseline": "transmm", "protocol": "corrected", "precision": "fp32", "seed": 0}
    settings |= {"experiments": {"toy": list(GRID.items())}, "metrics": {"toy": list(METRICS.items())}}
    assert main(["--settings", json.dumps(settings), "--results", str(folder), "--output", str(folder)]) == 0
    return {name: pd.read_csv(folder / f"{name}.csv") for name in ("methods", "judged", "comparison")} | {
        "better": better
    }


def test_a_row_per_method_with_its_cost(tables):
    own = tables["methods"].set_index("experiment")
    assert list(own.index) == list(GRID)
    assert own.loc["occlusion", ["role", "forward_passes", "backward_passes"]].tolist() == ["ceiling", 2 + PATCHES, 0]
    assert own.loc["integrated_gradients", ["forward_passes", "backward_passes"]].tolist() == [7, 5]
    assert own.loc["integrated_gradients", "completeness_residual"] == pytest.approx(
        np.abs(np.linspace(-1, 1, IMAGES)).mean()
    )
    assert own["completeness_residual"].notna().sum() == 1
    whole = tables["comparison"].set_index(["experiment", "metric", "stratum"])["mean"]
    for name in GRID:
        for metric in METRICS:
            assert own.loc[name, metric] == pytest.approx(whole[name, metric, "measurable"], nan_ok=True)


def test_judged(tables):
    """On the images whose cue is used; undefined scores are counted; ties count half."""
    own = tables["judged"].set_index(["metric", "stratum"])
    saco = own.loc["saco", "measurable"]
    assert saco["share_right"] == pytest.approx(tables["better"][:USED].mean())
    assert saco["n"] == USED and (saco["ci_low"], saco["ci_high"]) == pytest.approx(wilson(saco["share_right"], USED))
    assert own.loc["pixel_flipping", "measurable"]["share_right"] == 0
    tied = own.loc["average_precision", "all"]
    assert (tied["share_right"], tied["n"], tied["n_tied"], tied["n_undefined"]) == (0.5, USED - 3, USED - 3, 3)


@pytest.mark.parametrize(("count", "n"), [(0, 10), (7, 10), (40, 40), (123, 456)])
def test_wilson(count, n):
    assert wilson(count / n, n) == pytest.approx(proportion_confint(count, n, method="wilson"))
    assert all(map(math.isnan, wilson(float("nan"), 0)))


def test_passes_with_a_gate_add_the_gates_own():
    gate = {"layers": [1, 2]}
    assert passes({"method": "transmm"}, 100) == passes({"method": "transmm", "gate": gate}, 100) == (1, 1)
    assert passes({"method": "rollout", "gate": gate}, 100) == (1, 1)
    assert passes({"method": "tokentm", "gate": gate}, 100) == (2, 2)
    assert passes({"method": "input_x_gradient", "options": {"layers": [1, 2]}}, 100) == (1, 1)
    assert passes({"method": "input_x_gradient", "gate": gate}, 100) == (2, 2)
    assert passes({"method": "libragrad", "options": {"layers": [1, 2]}}, 100) == (4, 2)
    assert passes({"method": "libragrad", "gate": gate}, 100) == (4, 3)
    assert passes({"method": "external", "maps": "x"}, 100) == (None, None)
