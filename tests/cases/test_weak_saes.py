"""A weak SAE is named, and an SAE of another model is refused, wherever features are shown."""

from __future__ import annotations

import json
import shutil
from argparse import Namespace

import numpy as np
import pytest
import tiny_dataset as tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fgg.attribution.__main__ import run as attribute
from fgg.attribution.job import Job
from fgg.cases import __main__ as command
from fgg.cases import feature_pages, prototypes
from fgg.cases.pictures import Case, Change, Names, case_picture
from fgg.cli import main as fgg
from fgg.comparison import quality
from fgg.data.load import load_split
from fgg.errors import FggError
from fgg.models import model_files
from fgg.saes.provenance import model_record, stamp
from fgg.saes.sae import load_sae
from fgg.saes.saving import save_inference

GOOD = {"explained_variance": 0.93, "dead_share": 0.1, "same_prediction": 0.99, "dense_share": 0.02, "kl": 0.01,
        "accuracy_before": 0.8, "accuracy_after": 0.8}  # fmt: skip
WEAK = GOOD | {"explained_variance": 0.43}
GATE = {"layers": list(tiny.LAYERS), "construction": "combined"}
SAID = "weak SAE of layer 1: explained variance 0.43"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tiny dataset, whose SAEs say that they belong to its model; that of layer 1 is weak."""
    folder = tiny.make(tmp_path_factory.mktemp("weak"))
    identity = model_record(tiny.ARCHITECTURE, folder / "data/models/tiny")
    for layer, measured in zip(tiny.LAYERS, (GOOD, WEAK), strict=True):
        place = folder / f"data/saes/tiny/layer_{layer}"
        sae = load_sae(place)
        stamp(sae, layer, "checked", identity)
        save_inference(sae, place)
        (place / "metrics.json").write_text(json.dumps({"layer": layer, **measured}))
    results, images = folder / "results/tiny", folder / "data/prepared/tiny/test.parquet"
    maps, gates = (results / f"{kind}/{tiny.GATED}.parquet" for kind in ("attributions", "gates"))
    saes = {layer: folder / f"data/saes/tiny/layer_{layer}" for layer in tiny.LAYERS}
    experiment = {"method": "transmm", "gate": GATE}
    attribute(Job(folder / "data/models/tiny", images, experiment, tiny.SETTINGS, maps, gates, saes))
    return folder


@pytest.fixture(scope="module")
def other(folder, tmp_path_factory):
    """The same with other weights of the model."""
    copy = tmp_path_factory.mktemp("other") / "copy"
    shutil.copytree(folder, copy)
    file = copy / "data/models/tiny/model.safetensors"
    weights = load_file(file)
    weights["norm.weight"][0] += 1e-3
    save_file(weights, file)
    return copy


def image_of(folder):
    return load_split(folder / "data/prepared/tiny/test.parquet").image_ids[0]


def test_fgg_explain_names_a_weak_sae(folder, tmp_path, capsys):
    picture = tmp_path / "a.png"
    given = ["explain", image_of(folder), "--directory", str(folder), "--output"]
    assert fgg([*given, str(picture)]) == 0
    assert f"warning: {SAID}" in capsys.readouterr().err
    assert fgg([*given, str(tmp_path / "b.svg")]) == 0
    assert f"Warning: {SAID}" in (tmp_path / "b.svg").read_text().replace("<!-- ", "")
    capsys.readouterr()
    assert fgg([*given, str(tmp_path / "c.svg"), "--layers", "0"]) == 0
    assert "weak SAE" not in capsys.readouterr().err
    assert "weak SAE" not in (tmp_path / "c.svg").read_text()


def test_fgg_explain_refuses_an_sae_of_another_model(other, tmp_path, capsys):
    given = ["explain", image_of(other), "--output", str(tmp_path / "a.png")]
    for own in (["--directory", str(other)],
                ["--model", str(other / "data/models/tiny"), "--sae", f"1={other}/data/saes/tiny/layer_1"]):  # fmt: skip
        file = given if "--directory" in own else ["explain", *_picture(tmp_path), *given[2:]]
        assert fgg([*file, *own]) == 1
        assert "was made for the model vit_tiny_patch16_224 (sha256" in capsys.readouterr().err


def _picture(tmp_path):
    Image.fromarray(np.zeros((40, 48, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    return [str(tmp_path / "x.png")]


def test_prototypes_refuse_an_sae_of_another_model(folder, other, tmp_path, capsys):
    settings = {**tiny.SETTINGS, "prototypes": 3, "prototype_images": 5}
    for place, status in ((folder, 0), (other, 1)):
        given = ["--model", place / "data/models/tiny", "--sae", place / "data/saes/tiny/layer_1", "--layer", 1]
        given += ["--images", place / "data/prepared/tiny/train.parquet", "--settings", json.dumps(settings)]
        assert prototypes.main([str(one) for one in [*given, "--output", tmp_path / "p.parquet"]]) == status
    assert "was made for the model" in capsys.readouterr().err


def test_case_studies_refuse_an_sae_of_another_model(folder, other):
    for place in (folder, other):
        home = place / "data/models/tiny"
        model, preprocess, record = model_files.load(home, torch.device("cpu"))
        arguments = Namespace(
            settings={**tiny.SETTINGS, "patches": 2}, experiment={"gate": GATE}, results=place / "results/tiny",
            id=tiny.GATED, sae=[f"{layer}={place}/data/saes/tiny/layer_{layer}" for layer in tiny.LAYERS],
        )  # fmt: skip
        split = load_split(place / "data/prepared/tiny/test.parquet", 6, 0)
        given = (arguments, model, preprocess, split, record["classes"], torch.device("cpu"))
        identity = model_record(record["architecture"], home)
        if place is folder:
            saes = command.saes_of(arguments, model, identity)
            assert set(command.explain(*given, saes).dominant) == set(tiny.LAYERS)
        else:
            with pytest.raises(FggError, match="was made for the model"):
                command.saes_of(arguments, model, identity)


@pytest.mark.parametrize("warnings", [{}, {1: ""}, {1: SAID}], ids=["unknown", "sound", "weak"])
def test_a_picture_of_a_case_has_the_warning_in_its_head(warnings, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("fgg.cases.layout.say", lambda fig, left, top, text, **look: said.append((round(top, 2), text)))
    row = {
        "category": "improved", "rank": 1, "image_id": "a", "layer": 1, "patch": 0, "row": 0, "column": 0, "direction": "",
        "feature": None, "true_class": "a", "predicted_class": "a", "explained_class": "a", "confidence": 1.0,
        "gain_saco": 0.1, "composite": 0.0, "vanilla_map": 0.0, "gated_map": 0.1, "gate": 2.0,
    }  # fmt: skip
    case = Case(np.zeros((8, 8)), np.zeros(4), np.ones(4), (2, 2), [Change(row)])
    names = Names("gated", "TransMM", "val", {"saco": "SaCo"}, warnings)
    case_picture(case, names, 1, tmp_path / "case.png")
    assert [text for _, text in said if "Warning" in text] == [f"Warning: {SAID}"] * bool(warnings.get(1))
    tall = Image.open(tmp_path / "case.png").height
    assert tall == pytest.approx(150 * (0.98 + 0.16 * bool(warnings.get(1)) + 1.36 + 0.5 + 1.16), abs=2)


def test_pages_of_features_read_the_warnings_of_the_case_studies(tmp_path):
    (tmp_path / "cases.json").write_text(json.dumps({"warnings": [SAID]}))
    assert feature_pages.read_warnings([tmp_path, tmp_path / "none"]) == {1: SAID}


def test_warnings_are_read_from_a_folder_and_from_notes(folder):
    saes = folder / "data/saes/tiny"
    assert quality.folder_warning(saes / "layer_1", 1, quality.LEVELS) == SAID
    assert quality.folder_warning(saes / "layer_0", 0, quality.LEVELS) == ""
    assert quality.folder_warning(saes / "layer_9", 9, quality.LEVELS) == ""
    notes = ["", None, float("nan"), f"layer 2: x; weak model: y; {SAID}", SAID]
    assert quality.weak_saes(notes) == {1: SAID}
