"""The table of the SAEs' quality: levels kept and broken, a row per run and layer, and the mark in the figures."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from fgg.comparison import quality
from fgg.comparison.__main__ import main
from fgg.comparison.sae_table import COLUMNS, sae_table
from fgg.experiments import experiments
from fgg.report.experiment_names import label, place
from fgg.report.figures.__main__ import marked

SOUND = {
    "explained_variance": 0.9, "same_prediction": 0.97, "accuracy_before": 0.9, "accuracy_after": 0.89, "kl": 0.05,
    "dead_share": 0.2, "dense_share": 0.1, "l0": 4.5, "l0_low": 3, "kind": "trained", "place": "checked",
    "morans_i": 0.2, "morans_i_random": -0.01, "tokens": 640, "features": 32, "warnings": [],
}  # fmt: skip
BROKEN = {
    "explained_variance": {"explained_variance": 0.79},
    "same_prediction": {"same_prediction": 0.94},
    "accuracy_loss": {"accuracy_after": 0.87},
    "kl": {"kl": 0.11},
    "dead_share": {"dead_share": 0.51},
    "dense_share": {"dense_share": 0.21},
}


@pytest.mark.parametrize("level", quality.SAE_LEVELS)
def test_each_level_by_itself(level):
    assert all(quality.sae_passes(SOUND, quality.LEVELS).values()) and not list(
        quality.sae_warnings(2, SOUND, quality.LEVELS)
    )
    weak = SOUND | BROKEN[level]
    passed = quality.sae_passes(weak, quality.LEVELS)
    assert [name for name, kept in passed.items() if not kept] == [level]
    (said,) = quality.sae_warnings(2, weak, quality.LEVELS)
    assert said.startswith("weak SAE of layer 2: ") and "," not in said
    assert any(f"{number}" in said for number in ("0.79", "94 %", "3.0 %", "0.11", "51 %", "21 %"))
    relaxed = quality.LEVELS | {level: 0 if level in quality.LOWEST else 1}
    assert not list(quality.sae_warnings(2, weak, relaxed))


def test_what_was_not_measured_is_not_judged():
    passed = quality.sae_passes({"explained_variance": 0.9, "dead_share": None}, quality.LEVELS)
    assert passed == dict.fromkeys(quality.SAE_LEVELS, None) | {"explained_variance": True}
    assert quality.sae_passes({"explained_variance": None}, quality.LEVELS)["explained_variance"] is False


@pytest.fixture
def runs(tmp_path):
    """Settings of a comparison of two runs, and the folder with their SAEs; the second run's layer 2 is weak."""
    grid = {"baselines": ["transmm"], "gated": {"layers": [[2], [1, 2]], "construction": ["combined", "no_sae"],
            "clamp_max": [10], "alpha": [1], "shuffle_decoder": [False]}, "controls": []}  # fmt: skip
    own = experiments({"datasets": {"toy": {}}, "experiments": grid}, "toy")
    for name in ("toy", "toy-seed1"):
        for layer in (1, 2):
            folder = tmp_path / f"saes/{name}/layer_{layer}"
            folder.mkdir(parents=True)
            weak = BROKEN["kl"] | {"warnings": ["a fault"]} if (name, layer) == ("toy-seed1", 2) else {}
            (folder / "metrics.json").write_text(json.dumps(SOUND | weak))
    instances = {"toy": {"dataset": "toy", "seed": "0"}, "toy-seed1": {"dataset": "toy", "seed": "1"}}
    settings = {
        "seed": 0,
        "experiments": dict.fromkeys(instances, own),
        "runs": list(instances),
        "instances": instances,
    }
    return settings, tmp_path


def test_a_row_per_run_and_layer(runs):
    table = sae_table(*runs)
    assert table.columns.tolist() == list(COLUMNS)
    assert table[["dataset", "seed", "layer"]].to_numpy().tolist() == [["toy", s, n] for s in "01" for n in (1, 2)]
    assert table["sound"].tolist() == [True, True, True, False]
    assert table["sound_kl"].tolist() == [True, True, True, False] and table["sound_dead_share"].all()
    assert table["warnings"].tolist()[:3] == ["", "", ""]
    assert table["warnings"][3].startswith("a fault; weak SAE of layer 2: the probabilities change by")
    assert table["l0_low"].tolist() == [3] * 4 and table["morans_i"].tolist() == [0.2] * 4
    assert table["monosemanticity"].isna().all(), "was not measured"


def test_levels_of_the_configuration_count(runs):
    settings, data = runs
    assert sae_table({**settings, "quality": {"kl": 0.5}}, data)["sound"].all()
    assert not sae_table({**settings, "quality": {"explained_variance": 0.95}}, data)["sound"].any()


def test_controls_of_the_dictionary_have_rows_of_their_own(runs):
    settings, data = runs
    gate = {"layers": [2], "construction": "combined"}
    control = {"method": "transmm", "gate": gate, "control": "pca_sae"}
    settings["experiments"]["toy"] = settings["experiments"]["toy"] | {"gated-l2-pca": control}
    folder = data / "saes/toy/pca/layer_2"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(SOUND | BROKEN["dense_share"] | {"kind": "pca"}))
    table = sae_table(settings, data)
    assert table[["seed", "layer", "kind", "sound"]].to_numpy().tolist()[:3] == [
        ["0", 1, "trained", True], ["0", 2, "trained", True], ["0", 2, "pca", False],
    ]  # fmt: skip
    assert len(table) == 5


def test_without_records_the_table_is_empty(results):
    folder, settings = results
    settings["experiments"]["toy"] = {"transmm": settings["experiments"]["toy"]["transmm"]}
    given = ["--settings", json.dumps(settings), "--results", str(folder), "--output", str(folder)]
    assert main(given) == 0
    table = pd.read_csv(folder / "sae_quality.csv")
    assert table.columns.tolist() == list(COLUMNS) and table.empty


def test_experiments_on_a_weak_sae_are_marked():
    frame = pd.DataFrame(
        {
            "layers": [None, "2", "1+2", "1", np.nan],
            "construction": [None, "combined", "no_sae", "combined", None],
            "control": None, "shuffle_decoder": False, "method": "transmm", "clamp_max": 10.0, "alpha": 1.0,
        }
    )  # fmt: skip
    rows = marked(frame, {2: "weak SAE of layer 2: x"})
    assert rows["weak_sae"].tolist() == [False, True, True, False, False]
    assert [place(row) for _, row in rows.iloc[1:4].iterrows()] == [
        "layer 2 (weak SAE)",
        "layers 1+2 (weak SAE)",
        "layer 1",
    ]
    assert label(rows.iloc[1]) == "gated, layer 2 (weak SAE), activation × gradient"
