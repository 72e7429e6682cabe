"""Gates made of features that were not learnt, sweeps and seeds of SAEs: which SAEs are made, and which a gate reads."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from fgg.catalogue import DICTIONARIES
from fgg.comparison.quality import warnings
from fgg.comparison.tables import hypotheses
from fgg.errors import FggError
from fgg.experiments import candidates, case_experiments, has_gates, needs_sae
from fgg.faithfulness.measures import measures
from fgg.pipeline.commands import attribution_command
from fgg.pipeline.inputs import Inputs
from fgg.pipeline.parameters import Parameters
from fgg.pipeline.study import Study
from fgg.report.dictionary_words import dictionary_words
from fgg.report.experiment_names import label

ROOT = Path(__file__).parents[2]
GATE = "gated-l2-combined-c10-a1"


def study(**sae) -> Study:
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config["datasets"] = {"elpv": config["datasets"]["elpv"]}
    own = config["datasets"]["elpv"]["sae"]
    for key, value in sae.items():
        own[key] = {**own[key], **value} if key == "train" else value
    config["experiments"]["controls"] = list(DICTIONARIES)
    return Study(config)


def at(dataset="elpv", **wildcards):
    return SimpleNamespace(dataset=dataset, shard="", **wildcards)


def folders(place: Path) -> str:
    for layer in (1, 2):
        (place / f"layer_{layer}").mkdir()
    return str(place / "layer_{layer}")


@pytest.mark.parametrize(("control", "end", "kind"), [(name, *own) for name, own in DICTIONARIES.items()])
def test_a_control_of_the_dictionary_is_the_same_gate_with_other_saes(control, end, kind):
    own = study()
    name = f"{GATE}-{end}"
    settings = own.grid["elpv"][name]
    assert settings == {**own.grid["elpv"][GATE], "control": control}
    assert has_gates(settings) and needs_sae(settings)
    assert own.gate_saes(at(experiment=name)) == {2: f"data/saes/elpv/{kind}/layer_2"}
    assert own.gate_saes(at(experiment=GATE)) == {2: "data/saes/elpv/layer_2"}
    assert Inputs(own).gate_saes(at(experiment=name)) == [f"data/saes/elpv/{kind}/layer_2/sae_weights.safetensors"]
    command = attribution_command(own, Inputs(own), "elpv", name, "", "")
    assert f"2=data/saes/elpv/{kind}/layer_2" in command
    made = json.loads(Parameters(own).sae_settings(at(layer="2", variant=kind)))
    plain = json.loads(Parameters(own).sae_settings(at(layer="2")))
    assert made == {**plain, "kind": kind} and plain["kind"] == "trained"
    assert (GATE, end, name) in set(hypotheses(own.grid["elpv"]))
    assert name not in candidates(own.grid["elpv"]) and name not in case_experiments(own.config, "elpv")
    cells = {"experiment": name, "method": "transmm", **settings["gate"], "layers": "2", "control": control}
    assert label(cells).startswith("control, layer 2, ")


def test_a_control_of_the_dictionary_is_trained_even_if_the_saes_are_given(tmp_path):
    given = folders(tmp_path)
    own = study(weights=given)
    assert json.loads(Parameters(own).sae_settings(at(layer="2", variant="pca")))["weights"] == "train"
    assert json.loads(Parameters(own).sae_settings(at(layer="2")))["weights"] == given, "the job fills in the layer"


def test_a_control_bears_no_warning_about_the_saes_that_it_does_not_read():
    gate = {"layers": [2], "construction": "combined"}
    weak = {2: {"explained_variance": 0.1, "dead_share": 0.0}}
    levels = {"explained_variance": 0.8, "same_prediction": 0.95, "accuracy_loss": 0.02, "kl": 0.1} | {
        "dead_share": 0.5,
        "dense_share": 0.2,
        "model_gain": 0.25,
    }
    assert list(warnings({"gate": gate, "control": None}, {}, weak, "test", levels))
    assert not list(warnings({"gate": gate, "control": "frozen_sae"}, {}, weak, "test", levels))


def test_a_sweep_makes_all_candidates_and_a_choice():
    own = study(train={"k": [8, 16], "architecture": ["topk", "batchtopk"]}, select={"most_l0": 20})
    names = ["topk-x8-k8", "topk-x8-k16", "batchtopk-x8-k8", "batchtopk-x8-k16"]
    assert list(own.sweep("elpv")) == names and own.swept() == "elpv" and own.swept(False) == "(?!)"
    assert Inputs(own).sae_candidates(at(layer="1")) == [
        f"data/saes/elpv/sweep/{name}/layer_1/metrics.json" for name in names
    ]
    assert Inputs(own).sweep_tables(at()) == [f"results/elpv/sae_sweep/layer_{layer}.csv" for layer in (1, 2)]
    one = json.loads(Parameters(own).sae_settings(at(layer="1", variant="sweep/batchtopk-x8-k16")))
    assert (one["train"]["architecture"], one["train"]["k"], one["kind"]) == ("batchtopk", 16, "trained")
    control = json.loads(Parameters(own).sae_settings(at(layer="1", variant="frozen_decoder")))
    chosen = ["data/saes/elpv/layer_1/metrics.json"]
    assert control["train"] == {} and Inputs(own).like_the_chosen(at(layer="1", variant="frozen_decoder")) == chosen
    assert Inputs(own).like_the_chosen(at(layer="1", variant="sweep/batchtopk-x8-k16")) == []
    assert Inputs(own).like_the_chosen(at(layer="1", variant="pca")) == []
    assert Inputs(study()).like_the_chosen(at(layer="1", variant="frozen_decoder")) == []
    choice = json.loads(Parameters(own).choice_settings(at()))
    assert choice["select"]["most_l0"] == 20 and [name for name, _ in choice["candidates"]] == names
    assert "sae_sweep" in Inputs(own).figures() and "sae_sweep" not in Inputs(study()).figures()
    assert study().sweep("elpv") == {} and study().swept() == "(?!)"


@pytest.mark.parametrize(
    ("sae", "fault"),
    [
        ({"train": {"seed": 7}, "seeds": [0, 1]}, r"train\.seed: it would give every seed of the run the same SAE"),
        ({"kind": "pca", "train": {"k": [8, 16]}}, "train: the kind pca is not trained, so there is nothing to sweep"),
        ({"train": {"l1": [1, 2]}}, r"train\.l1: only standard has this coefficient"),
        (
            {"train": {"architecture": "standard", "k": [1, 2]}},
            r"train\.k: only topk, batchtopk, matryoshka, jumprelu has",
        ),
        (
            {"train": {"normalize": "layer_norm"}},
            r"train\.normalize: sae-lens cannot train topk, batchtopk and matryoshka",
        ),
        ({"train": {"k": [8, 5000]}}, r"train\.k: 5000 is more than the 768 features of expansion 8"),
        (
            {"train": {"k": [8, 500], "expansion": [4, 8]}},
            r"train\.k: 500 is more than the 384 features of expansion 4",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_job(sae, fault):
    with pytest.raises(FggError, match=rf"datasets\.elpv\.sae\.{fault}"):
        study(**sae)


def test_given_saes_have_no_sweep(tmp_path):
    with pytest.raises(FggError, match=r"sae\.train\.k: a list is a sweep, but sae\.weights names SAEs that exist"):
        study(weights=folders(tmp_path), train={"k": [8, 16]})


def test_seeds_of_the_saes_of_one_dataset():
    own = study(seeds=[3, 5])
    assert [(each.name, each.seeds["sae"], each.model) for each in own.instances.values()] == [
        ("elpv", 3, "elpv"),
        ("elpv-sae5", 5, "elpv"),
    ]
    seeds = [json.loads(Parameters(own).sae_settings(at(name, layer="2")))["seed"] for name in own.instances]
    assert seeds == [3, 5]


def test_seeds_of_saes_that_are_given_twice():
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config["datasets"]["elpv"]["sae"]["seeds"] = [0, 1]
    config["seeds"] = [0, 1]
    with pytest.raises(FggError, match=r"datasets\.elpv\.sae\.seeds: `seeds` already repeats the SAEs; write seeds:"):
        Study(config)
    config["seeds"] = {"split": [0, 1]}
    assert len(Study(config).instances) == 4


def rows(verdicts):
    usual = {"metric": "saco", "fill": "mean", "stratum": "measurable"}
    return pd.DataFrame([{"experiment": e, "against": a, "verdict": v, **usual} for e, a, v in verdicts])


def test_whether_learning_matters_in_words():
    known = {"saco": measures({"saco": ["mean"]})["saco"]}
    frame = rows(
        [
            *(("g1", "frozen", "better"), ("g1", "pca", "better in values"), ("g1", "permuted", "worse")),
            *(("g2", "frozen", "no difference shown"), ("g2", "pca", "worse")),
        ]
    )
    text = "\n".join(dictionary_words(frame, known))
    assert "2 gates of SAE features" in text
    title = known["saco"].title
    assert f"SAE with a random decoder 1 better, 0 worse of 2 (better 1 times by {title})" in text
    assert f"instead of an SAE 1 better, 1 worse of 2 (better 1 times by {title}, worse 1 times by {title})" in text
    assert text.endswith("Learnt features are better than all of these in 1 of 2 comparisons.")
    none = "\n".join(dictionary_words(rows([("g1", "frozen", "no difference shown")]), known))
    assert "SAE with a random decoder 0 better, 0 worse of 1. Learnt" in none
    assert not list(dictionary_words(rows([("g1", "permuted", "better")]), known))
