"""Sanity checks and the selection."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from fgg.comparison import sanity, selection
from fgg.errors import FggError
from fgg.tables import write_table


def attributions(path, rows, ids=None):
    ids = ids or [f"image{i}" for i in range(len(rows))]
    write_table(path, {"image_id": ids, "relevance": np.asarray(rows, dtype=np.float32)}, {})


def test_the_table_of_sanity_checks(tmp_path):
    random = np.random.default_rng(0)
    folder = tmp_path / "toy" / "attributions"
    original = random.random((6, 9))
    broken = random.random((6, 9))
    broken[0] = 1.0
    attributions(folder / "transmm.parquet", original)
    attributions(folder / "transmm-randomized-model.parquet", broken)
    grid = {
        "toy": [
            ["transmm", {"method": "transmm"}],
            ["transmm-randomized-model", {"method": "transmm", "control": "randomized_model"}],
        ]
    }
    arguments = ["--experiments", json.dumps(grid), "--results", str(tmp_path), "--output", str(tmp_path / "s.csv")]
    assert sanity.main(arguments) == 0
    table = pd.read_csv(tmp_path / "s.csv")
    assert len(table) == 1
    row = table.iloc[0]
    assert (row["original"], row["n"], row["n_undefined"]) == ("transmm", 5, 1)
    expected = [spearmanr(original[i], broken[i]).statistic for i in range(1, 6)]
    assert row["spearman"] == pytest.approx(np.mean(expected))
    assert row["sem"] == pytest.approx(np.std(expected, ddof=1) / 5**0.5)

    attributions(folder / "transmm.parquet", original, ids=list("abcdef"))
    with pytest.raises(FggError, match="different images"):
        sanity.similarities(folder, "toy", dict(grid["toy"]))


METRICS = ("saco", "faithfulness_correlation", "pixel_flipping")


def images(path, measurable):
    """The table of measurable images."""
    ids = [f"image{i:02d}" for i in range(len(measurable))]
    write_table(path, {"image_id": ids, "fill": np.full(len(ids), "mean"), "measurable": measurable}, {})


def scores(path, random, shift):
    ids = [f"image{i:02d}" for i in range(30)]
    base = np.random.default_rng(1).random(30)
    write_table(
        path,
        {
            "image_id": ids,
            "label": np.zeros(30, dtype=np.int64),
            "predicted": np.zeros(30, dtype=np.int64),
            "confidence": np.ones(30),
            "saco": base + shift + 0.1 * random.standard_normal(30),
            "faithfulness_correlation": base + shift + 0.1 * random.standard_normal(30),
            "faithfulness_correlation_sd": np.zeros(30),
            "faithfulness_correlation_se": np.zeros(30),
            "pixel_flipping": base - shift + 0.1 * random.standard_normal(30),
            "relevance_ties": np.zeros(30, dtype=np.int64),
            "saco_equal_drops": np.zeros(30, dtype=np.int64),
            "faithfulness_correlation_undefined": np.zeros(30, dtype=np.int64),
        },
        {},
    )


def gate(layer, construction="combined", **other):
    settings = {"layers": [layer], "construction": construction, "clamp_max": 10, "alpha": 1, "shuffle_decoder": False}
    return {"method": "transmm", "gate": settings | other, "control": None}


def test_the_selection_chooses_on_validation_and_reports_on_test(tmp_path):
    """On the validation split B is best, on the test split A: B is reported, with the test split's numbers."""
    random = np.random.default_rng(0)
    grid = {
        "transmm": {"method": "transmm"},
        "A": gate(1),
        "B": gate(2),
        "no_sae": gate(2, "no_sae"),
        "shuffled": gate(2, shuffle_decoder=True),
    }
    validation = {"transmm": 0, "A": 0.05, "B": 0.3, "no_sae": 5, "shuffled": 5}
    test = {"transmm": 0, "A": 0.5, "B": 0.1, "no_sae": 5, "shuffled": 5}
    measurable = np.arange(30) < 25
    for folder, shifts in (("toy/validation", validation), ("toy", test)):
        images(tmp_path / folder / "images.parquet", measurable)
        for name, shift in shifts.items():
            scores(tmp_path / folder / "faithfulness" / f"{name}.parquet", random, shift)
    arguments = [
        "--experiments", json.dumps({"toy": list(grid.items())}),
        "--settings", json.dumps({"baseline": "transmm", "seed": 0, "metrics": {"toy": [[name, ["mean"]] for name in METRICS]}}),
        "--results", str(tmp_path), "--output", str(tmp_path / "s.csv"), "--ranking", str(tmp_path / "r.csv"),
    ]  # fmt: skip
    assert selection.main(arguments) == 0
    ranking = pd.read_csv(tmp_path / "r.csv")
    assert list(ranking["experiment"]) == ["B", "A"], "neither no_sae nor a control is a candidate"
    assert ranking["mean_effect_size"].is_monotonic_decreasing
    chosen = pd.read_csv(tmp_path / "s.csv")
    assert set(chosen["experiment"]) == {"B"}
    assert list(chosen["metric"]) == list(METRICS)
    assert set(chosen["n_pairs"]) == {25}, "measurable images only"
    assert chosen["difference"].tolist() == pytest.approx([0.1, 0.1, -0.1], abs=0.07)
    assert (chosen["effect_size"] > 0).all()
    assert (chosen["p_adjusted"] >= chosen["p_value"]).all()
