"""Masks and planted cues in the configuration: what is filled in, what is refused, what reaches the jobs."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from fgg.errors import FggError
from fgg.experiments import dataset_config
from fgg.faithfulness.registry import localising, switched_on
from fgg.pipeline.configuration import check
from fgg.pipeline.inputs import Inputs
from fgg.pipeline.parameters import Parameters
from fgg.pipeline.study import Study

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
NAMES = set(localising())


def config(run=("planted",), planted=None, metrics=None, general=None, **changes):
    """The default configuration with a planted dataset, changed."""
    found = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    own = copy.deepcopy(found["datasets"]["elpv"]) | {"source": "planted", **changes}
    own["metrics"] |= metrics or {}
    if planted is not None:
        own["planted"] = planted
    found["metrics"] |= general or {}
    return found | {"run": list(run), "datasets": {**found["datasets"], "planted": own}}


def masked(**changes):
    """The default configuration, in which the digits have masks."""
    found = config(("elpv", "digits"), **changes)
    found["datasets"]["digits"]["masks"] = "masks"
    return found


def of(found, dataset):
    """The metrics of a dataset that are switched on and need masks."""
    return NAMES & set(switched_on(dataset_config(check(found, SCHEMA), dataset)["metrics"]))


def fault(found):
    with pytest.raises(FggError) as error:
        check(found, SCHEMA)
    return str(error.value)


# ---- the metrics


def test_datasets_with_masks_have_the_metrics_and_others_do_not():
    assert of(config(), "planted") == NAMES and of(masked(), "digits") == NAMES
    assert not of(config(), "elpv") and not of(masked(), "elpv")


def test_null_switches_them_off_for_all_or_for_one_dataset():
    assert not of(config(general={"localisation": None}), "planted")
    assert not of(config(metrics={"localisation": None}), "planted")
    assert of(config(general={"localisation": None}, metrics={"localisation": {}}), "planted") == NAMES
    assert of(config(general={"pr_area": None}), "planted") == NAMES - {"pr_area"}
    assert of(config(general={"localisation": None, "pr_area": {}}), "planted") == {"pr_area"}


def test_asked_for_in_general_they_are_for_datasets_with_masks():
    for key in ("localisation", "pr_area"):
        assert of(masked(general={key: {}}), "digits") == NAMES and not of(masked(general={key: {}}), "elpv")


@pytest.mark.parametrize("key", ["localisation", "pr_area"])
def test_no_dataset_with_masks(key):
    message = fault(config(["elpv", "digits"], general={key: {}}))
    assert f"metrics.{key}: no dataset of the run has masks; set `masks` of one" in message
    own = masked()
    own["datasets"]["elpv"]["metrics"][key] = {}
    assert f"datasets.elpv.metrics.{key}: the dataset has no masks; set `masks`" in fault(own)


def test_a_metric_of_ones_own_that_needs_masks(tmp_path, monkeypatch):
    (tmp_path / "mine_masks.py").write_text(
        "def inside(relevance, masks):\n    '''Mine.'''\n    return masks.sum(-1)\n"
    )
    monkeypatch.chdir(tmp_path)
    asked = {"mine_masks:inside": {}}
    found = check(masked(general=asked), SCHEMA)
    assert "mine_masks:inside" in switched_on(dataset_config(found, "digits")["metrics"])
    assert "mine_masks:inside" not in switched_on(dataset_config(found, "elpv")["metrics"])
    assert "metrics.mine_masks:inside: no dataset of the run has masks" in fault(config(["elpv"], general=asked))
    assert "there is no module 'mine_nowhere'" in fault(config(["elpv"], general={"mine_nowhere:inside": {}}))


@pytest.mark.parametrize("make", [config, masked])
def test_a_checked_configuration_checks_again_to_itself(make):
    for general in ({}, {"localisation": {}}, {"localisation": None}, {"pr_area": {}}):
        once = check(make(general=general), SCHEMA)
        assert check(once, SCHEMA) == once


# ---- the images


def test_the_defaults_of_planted_images():
    found = check(config(planted={"cue": "tone"}), SCHEMA)["datasets"]
    assert found["planted"]["planted"] == {
        **{"images": "elpv", "backgrounds": None, "cue": "tone", "size": 16, "placement": "grid", "share": 0.9},
        **{"size_of_image": 80, "cell": 8, "contrast": 0.25, "copies": 1},
    }
    assert check(config(), SCHEMA)["datasets"]["planted"]["planted"]["cue"] == "stripes"
    assert found["elpv"]["planted"] is None and found["elpv"]["masks"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"planted": {"size": 60}}, "datasets.planted.planted.size: a cue and a decoy of 60 pixels do not fit"),
        ({"planted": {"size": 12}}, "datasets.planted.planted.size: 12 is no multiple of the patches' 8"),
        ({"planted": {"cell": 4}}, "datasets.planted.planted.cell: 4 is not the model's patch_size 8"),
        (
            {"planted": {"size_of_image": 64}},
            "datasets.planted.preprocess.resize: planted images have their final size",
        ),
        ({"planted": {"size_of_image": 64}}, "planted.size_of_image: 64 is not the model's img_size 80"),
        ({"planted": {"cue": "colour"}}, "preprocess.channels: 'dark_lines' hides the cue's colour; set channels: rgb"),
        ({"planted": {"shape": "round"}}, "datasets.planted.planted: unknown key 'shape'"),
        ({"planted": {"cue": "stripe"}}, "datasets.planted.planted.cue: 'stripe' is not allowed (did you mean"),
        ({"path": "images"}, "datasets.planted.path: planted images are made of an embedded set; leave it out"),
        ({"masks": "masks"}, "datasets.planted.masks: planted images have masks of their own; leave it out"),
        ({"source": "elpv", "planted": {}}, "datasets.planted.planted: only the source 'planted' plants cues"),
    ],
)
def test_faults(changes, message):
    assert message in fault(config(**changes))


def test_a_free_cue_needs_no_grid():
    assert check(config(planted={"size": 13, "placement": "free", "cell": 4}), SCHEMA)


# ---- the jobs


def test_what_the_jobs_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "masks").mkdir()
    study = Study(masked() | {"run": ["elpv", "digits", "planted"]})
    parameters = Parameters(study)
    settings = {name: json.loads(parameters.prepare_settings(SimpleNamespace(dataset=name))) for name in study.datasets}
    plain = {"source", "path", "fractions", "max_skipped", "seed"}
    assert set(settings["elpv"]) == plain and set(settings["digits"]) == {*plain, "masks"}
    assert set(settings["planted"]) == {*plain, "planted"} and len(settings["planted"]["planted"]) == 10
    assert {name for name, entry in study.metrics["planted"].items() if entry.localises} == NAMES
    told = json.loads(parameters.score_settings()(SimpleNamespace(dataset="planted", experiment="transmm")))
    assert {name: told["metrics"][name] for name in NAMES} == {name: {} for name in NAMES}
    assert not NAMES & set(
        json.loads(parameters.score_settings()(SimpleNamespace(dataset="elpv", experiment="transmm")))["metrics"]
    )
    least = {name: json.loads(parameters.measurable_settings(SimpleNamespace(place=name))) for name in study.datasets}
    assert least["elpv"] == {"least_drop": 0.05} and least["planted"] == {"least_drop": 0.05, "least_cue_drop": 0.25}
    assert Inputs(study).downloaded_images(SimpleNamespace(dataset="planted")) == []


def test_changed_masks_are_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "masks").mkdir()
    digits = SimpleNamespace(dataset="digits")
    study = Study(masked())
    content = Parameters(study).content(Inputs(study).pictures)
    before = content(digits)
    (tmp_path / "masks/digit0001.png").write_bytes(b"x")
    assert content(digits) != before and content(SimpleNamespace(dataset="elpv")) == ""


def test_a_folder_of_masks_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FggError, match=r"datasets\.digits\.masks: masks does not exist \(seen from"):
        Study(masked())


def test_words_for_masks_of_the_source_are_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = config(("covidquex",))
    found["datasets"]["covidquex"]["masks"] = "infection"
    study = Study(found)
    assert Inputs(study).pictures(SimpleNamespace(dataset="covidquex")) == []
    assert {name for name, entry in study.metrics["covidquex"].items() if entry.localises} == NAMES


def test_a_home_folder_is_expanded(monkeypatch, tmp_path):
    from fgg.data.locations import local_settings, locate

    monkeypatch.setenv("HOME", str(tmp_path))
    settings = {"path": "~/cells", "masks": "~/masks", "sample": {"ids": "~/ids.txt"}, "model": {"weights": "~/m.pth"}}
    found = local_settings(settings | {"sae": {"weights": {"default": "~/saes/{layer}"}}})
    assert found["path"] == f"{tmp_path}/cells" and found["masks"] == f"{tmp_path}/masks"
    assert found["sample"]["ids"] == f"{tmp_path}/ids.txt" and found["model"]["weights"] == f"{tmp_path}/m.pth"
    assert found["sae"]["weights"] == {"default": f"{tmp_path}/saes/{{layer}}"}
    assert locate("~/m.pth", "model.weights") == tmp_path / "m.pth"
