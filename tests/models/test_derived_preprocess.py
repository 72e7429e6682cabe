"""The job that makes a model, where the preprocessing is left out: it measures the training images, and says what it assumes."""

import copy
import json

import pytest

from fgg.data.load import load_split
from fgg.data.preprocess import Preprocess
from fgg.data.preprocess_words import preprocess_words
from fgg.models import build_model
from fgg.models.image_records import ASSUMED
from fgg.models.image_settings import GIVEN, MODEL, USUAL


def changed(settings, weights, **preprocess):
    settings = copy.deepcopy(settings)
    settings["model"]["weights"] = weights
    settings["model"]["train"]["epochs"] = 1
    settings["preprocess"] = dict.fromkeys(settings["preprocess"]) | preprocess
    return settings


def test_the_job_measures_the_training_images(data, model_settings, model_folder, tmp_path, capsys):
    record = build_model.build(data, changed(model_settings, "train"), tmp_path)
    before = json.loads((model_folder / "model.json").read_text())
    assert record["preprocess"] == before["preprocess"], "as with resize: 32, the model's own size"
    assert record["preprocess_from"] == {
        "size": MODEL,
        "channels": "the model takes 3; of the 24 training images, 24 are in colour",
        "interpolation": USUAL,
        "mean": "the 24 training images",
        "std": "the 24 training images",
    }
    assert before["preprocess_from"]["size"] == GIVEN
    line = f"preprocessing: {preprocess_words(record['preprocess'], record['preprocess_from'])}\n"
    assert line in capsys.readouterr().out and "(the 24 training images)" in line and "(the model's input)" in line


def test_the_job_of_other_weights_says_what_it_assumes(data, model_settings, model_folder, tmp_path, capsys):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes((model_folder / "model.safetensors").read_bytes())
    record = build_model.build(data, changed(model_settings, str(weights)), tmp_path / "m")
    assert record["preprocess"]["mean"] == [0.5, 0.5, 0.5] and record["preprocess_from"]["mean"] == ASSUMED
    assert f"note: preprocess: mean and std are {ASSUMED}" in capsys.readouterr().err
    settings = changed(model_settings, str(weights), channels="dark_lines", std=[0.1, 0.2, 0.3])
    record = build_model.build(data, settings, tmp_path / "n")
    pixels = load_split(data / "train.parquet").pixels(Preprocess(32, channels="dark_lines")).double()
    assert record["preprocess"]["mean"] == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-9)
    assert record["preprocess"]["std"] == [0.1, 0.2, 0.3]
    assert "the weights name none for the channels dark_lines" in capsys.readouterr().err


def test_a_model_of_one_channel_is_told_of_colours(data, model_settings, tmp_path, capsys):
    settings = changed(model_settings, "train")
    settings["model"]["kwargs"]["in_chans"] = 1
    record = build_model.build(data, settings, tmp_path)
    assert record["preprocess"]["channels"] == "grey" and len(record["preprocess"]["mean"]) == 1
    assert "24 of the 24 training images are in colour, which a model of one channel" in capsys.readouterr().err
