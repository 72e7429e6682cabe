"""Sweeps of SAEs: which combinations there are, and which of them is taken."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from fgg.errors import FggError
from fgg.saes import choose_sae
from fgg.saes.choose_sae import candidates, in_words, on_front
from fgg.saes.sweep import combinations, first, is_sweep
from fgg.tables import read_csv, read_json, write_json

TRAIN = {
    "architecture": "topk",
    "expansion": 8,
    "k": 24,
    "l1": 1.0,
    "l0": 1.0,
    "normalize": "covariance_whitening",
    "learning_rate": 0.001,
    "seed": None,
    "batch_size": 512,
    "tokens": 1000,
}
SELECT = {"measure": "explained_variance", "most_l0": None, "most_dead": None}


def test_without_lists_there_is_one():
    assert not is_sweep(TRAIN) and combinations(TRAIN) == {"topk-x8-k24": TRAIN}
    assert not is_sweep({**TRAIN, "k": [24]}) and combinations({**TRAIN, "k": [24]}) == {"topk-x8-k24": TRAIN}
    assert first(TRAIN) == TRAIN


def test_every_combination_once_with_only_the_coefficients_that_its_architecture_has():
    own = {**TRAIN, "architecture": ["topk", "standard", "jumprelu"], "k": [8, 16], "l1": [0.5, 2], "expansion": [4, 8]}
    found = combinations(own)
    assert list(found) == [
        *("topk-x4-k8", "topk-x4-k16", "topk-x8-k8", "topk-x8-k16"),
        *("standard-x4-l1_0_5", "standard-x4-l1_2", "standard-x8-l1_0_5", "standard-x8-l1_2"),
        *("jumprelu-x4-k8", "jumprelu-x4-k16", "jumprelu-x8-k8", "jumprelu-x8-k16"),
    ]
    assert not any(isinstance(value, list) for each in found.values() for value in each.values())
    assert found["standard-x8-l1_2"] == {**TRAIN, "architecture": "standard", "l1": 2, "k": 8, "expansion": 8}
    assert first(own) == {**TRAIN, "architecture": "topk", "k": 8, "l1": 0.5, "expansion": 4}


def test_combinations_that_cannot_be_trained_are_left_out_unless_they_are_all():
    own = {**TRAIN, "architecture": ["topk", "standard"], "normalize": ["none", "layer_norm"]}
    assert list(combinations(own)) == ["topk-x8-k24-none", "standard-x8-l1_1-none", "standard-x8-l1_1-layer_norm"]
    assert list(combinations({**TRAIN, "normalize": "layer_norm"})) == ["topk-x8-k24-layer_norm"]


def test_names_can_be_folders():
    own = {**TRAIN, "learning_rate": [1e-3, 3e-4], "seed": [0, 1], "l1": [1.5]}
    assert [name.removeprefix("topk-x8-k24-") for name in combinations(own)] == [
        *("seed0", "seed1", "lr0_0003-seed0", "lr0_0003-seed1")
    ]


def test_a_further_list_renames_nothing():
    before = {**TRAIN, "k": [2, 4]}
    for more in (
        {"architecture": ["topk", "batchtopk"]},
        {"expansion": [8, 16]},
        {"normalize": ["covariance_whitening", "none"]},
    ):
        after = combinations({**before, **more})
        assert {name: after[name] for name in combinations(before)} == combinations(before) and len(after) == 4


def test_values_that_differ_little_have_names_that_differ():
    assert len(combinations({**TRAIN, "learning_rate": [0.0001234567, 0.0001234568]})) == 2
    assert len(combinations({**TRAIN, "architecture": "standard", "l1": [12345678.0, 12345679.0]})) == 2


def measured(**values):
    usual = {"explained_variance": 0.9, "l0": 16.0, "dead_share": 0.1, "same_prediction": 0.9, "kl": 0.1}
    return {**usual, "loss_recovered": 0.9, "features": 48, "tokens": 100, **values}


@pytest.fixture
def swept(tmp_path) -> tuple[Path, dict]:
    own = {
        "k8": measured(l0=8.0, explained_variance=0.7, kl=0.3, loss_recovered=0.7),
        "k16": measured(l0=16.0, explained_variance=0.8, kl=0.2, dead_share=0.6, loss_recovered=None),
        "k32": measured(l0=32.0, explained_variance=0.95, kl=0.1, loss_recovered=0.8),
        "worse": measured(l0=33.0, explained_variance=0.94, kl=0.05),
    }
    for name, values in own.items():
        write_json(tmp_path / name / "layer_1" / "metrics.json", {"layer": 1, **values}, {})
    return tmp_path, {name: {**TRAIN, "k": 8} for name in own}


@pytest.mark.parametrize(
    ("select", "chosen"),
    [
        ({}, "k32"),
        ({"measure": "kl"}, "worse"),
        ({"measure": "kl", "most_l0": 20}, "k16"),
        ({"most_l0": 20, "most_dead": 0.5}, "k8"),
        ({"measure": "loss_recovered", "most_l0": 32}, "k32"),
    ],
)
def test_the_best_within_the_limits_is_taken(swept, select, chosen):
    frame = candidates(swept[0], 1, swept[1], {**SELECT, **select})
    assert frame.loc[frame["chosen"], "name"].tolist() == [chosen]
    assert frame["pareto"].tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("select", "why"),
    [
        ({"most_l0": 4}, r"no SAE of layer 1 keeps the limits \(largest explained variance with L0 of at most 4\); the sweep has L0 from 8\.0 to 33\.0"),
        ({"measure": "loss_recovered", "most_l0": 16, "most_dead": 0.7}, None),
    ],
)  # fmt: skip
def test_when_none_can_be_taken(swept, select, why):
    if why is None:  # one of the two within the limits has no value
        frame = candidates(swept[0], 1, swept[1], {**SELECT, **select})
        assert frame.loc[frame["chosen"], "name"].item() == "k8"
        return
    with pytest.raises(FggError, match=why):
        candidates(swept[0], 1, swept[1], {**SELECT, **select})


def test_the_front_by_its_definition():
    points = pd.DataFrame({"l0": [1, 2, 2, 3, 3.0], "ev": [0.1, 0.5, 0.5, 0.4, 0.9]})
    assert on_front(points["l0"], points["ev"]) == [True, True, True, False, True]
    assert on_front(pd.Series([1.0, 2.0]), pd.Series([float("nan"), 0.5])) == [False, True]


def test_of_equal_ones_the_sparsest_is_taken(swept):
    frame = candidates(swept[0], 1, swept[1], {**SELECT, "measure": "same_prediction"})
    assert frame.loc[frame["chosen"], "name"].item() == "k8"
    names = ["worse", "k32", "k16", "k8"]
    other = candidates(swept[0], 1, {name: swept[1][name] for name in names}, {**SELECT, "measure": "same_prediction"})
    assert other.loc[other["chosen"], "name"].item() == "k8", "whatever the order"


def test_the_job_writes_the_chosen_folder_and_the_table(swept, tmp_path, capsys):
    folder, trained = swept
    for name in trained:
        for file in ("cfg.json", "sae_weights.safetensors"):
            (folder / name / "layer_1" / file).write_text(name)
    settings = json.dumps({"candidates": list(trained.items()), "select": SELECT})
    arguments = ["--layer", "1", "--settings", settings, "--folder", str(folder), "--table", str(tmp_path / "t.csv")]
    assert choose_sae.main([*arguments, "--output", str(tmp_path / "out")]) == 0
    assert "of 4 SAEs k32 is taken (largest explained variance)" in capsys.readouterr().out
    assert (tmp_path / "out" / "cfg.json").read_text() == "k32"
    record = read_json(tmp_path / "out" / "metrics.json")
    assert record["l0"] == 32 and record["chosen"] == "k32 of 4, largest explained variance"
    table = read_csv(tmp_path / "t.csv")
    assert (
        table["chosen"].sum() == 1 and table["k"].tolist() == [8] * 4 and table["l0_coefficient"].tolist() == [1.0] * 4
    )


def test_choices_in_words():
    both = {"measure": "kl", "most_l0": 32, "most_dead": 0.25}
    assert in_words(both) == "smallest kl with L0 of at most 32 and at most 25% dead features"
