"""What the workflow asks for when features are deleted: tables, settings, and nothing where it is switched off."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from fgg.errors import FggError
from fgg.pipeline.inputs import Inputs
from fgg.pipeline.parameters import Parameters
from fgg.pipeline.study import Study

ROOT = Path(__file__).parents[2]


def study(**changes):
    return Study(yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8")) | changes)


def test_a_pair_of_tables_per_instance_and_layer():
    own = study(seeds=[3, 4])
    assert Inputs(own).deletion_tables() == [
        f"results/{name}/feature_deletion/{kind}layer_{layer}.parquet"
        for name in ("elpv", "elpv-seed4")
        for layer in (1, 2)
        for kind in ("", "alone/")
    ]
    settings = json.loads(Parameters(own).deletion_summary_settings())
    assert settings["instances"] == [
        ["elpv", {"dataset": "elpv", "seed": "3", "layers": [1, 2]}],
        ["elpv-seed4", {"dataset": "elpv", "seed": "4", "layers": [1, 2]}],
    ]
    assert json.loads(Parameters(own).deletion_settings(SimpleNamespace(dataset="elpv-seed4")))["seed"] == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"feature_deletion": {"enabled": False}},
        {"experiments": {"baselines": ["transmm"], "gated": {"layers": [[1]], "construction": ["no_sae"]}}},
    ],
    ids=["switched off", "no gate reads an SAE"],
)
def test_nothing_is_asked_for(changes):
    own = Inputs(study(cases={"enabled": False}, **changes))
    assert own.deletion_tables() == own.deletion_summary() == own.deletion_arguments() == []
    assert "feature_deletion" not in own.pages() and "feature_deletion" not in own.figures()
    assert "results/feature_deletion.csv" not in own.extra_tables()


def test_it_is_on_by_default():
    own = Inputs(study())
    assert own.deletion_arguments() == ["--deletion results/feature_deletion.csv"]
    assert "feature_deletion" in own.pages() and "feature_deletion" in own.figures()
    assert "results/feature_deletion.csv" in own.extra_tables()


@pytest.mark.parametrize(("limit", "images"), [(None, 150), (40, 40), (999, 150)])
def test_the_smaller_limit_counts(limit, images):
    own = Parameters(study(feature_deletion={"max_images": limit, "counts": [1, 3]}))
    settings = json.loads(own.deletion_settings(SimpleNamespace(dataset="elpv")))
    assert (settings["max_images"], settings["limit"]) == (images, limit)
    assert (settings["counts"], settings["draws"], settings["target"]) == ([1, 3], 3, "predicted")


@pytest.mark.parametrize("wrong", [{"counts": []}, {"counts": [0]}, {"counts": [2, 2]}, {"draws": 0}, {"count": [1]}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(FggError, match="feature_deletion"):
        study(feature_deletion=wrong)
