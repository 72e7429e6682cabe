"""An option is chosen by SRG on the measurable validation images."""

import json

import pytest
import torch
from tiny_trained import data, defaults, model_folder, model_settings  # noqa: F401

import fgg
from fgg.attribution.job import parse
from fgg.data.load import load_split
from fgg.errors import FggError
from fgg.faithfulness import option_choice
from fgg.models import model_files
from fgg.perturbation.engine import Perturber
from fgg.tables import read_json

SETTINGS = {"seed": 0, "device": "cpu", "precision": "fp32", "batch_size": 5, "max_images": None, "target": "predicted"}
SETTINGS |= {"least_drop": -0.02}  # the tiny model rests on little
EXPERIMENT = {"method": "attnlrp", "choose": {"gamma": [0.0, 0.3, 5.0]}}


@pytest.fixture(scope="module")
def chosen(data, model_folder, tmp_path_factory):  # noqa: F811
    output = tmp_path_factory.mktemp("choice") / "chosen.json"
    arguments = ["--model", str(model_folder), "--images", str(data / "val.parquet"), "--output", str(output)]
    arguments += ["--experiment", json.dumps(EXPERIMENT), "--settings", json.dumps(SETTINGS)]
    assert option_choice.main(arguments) == 0
    return output


def test_the_choice_is_the_best_mean_srg(chosen, data, model_folder):  # noqa: F811
    record = read_json(chosen)
    model, preprocess, _ = model_files.load(model_folder, torch.device("cpu"))
    images = load_split(data / "val.parquet").tensors(preprocess)
    engine = Perturber(model, images)
    target = engine.clean.argmax(-1)
    chance = engine.clean.softmax(-1).gather(1, target[:, None])[:, 0]
    everything = torch.ones(len(images), 1, engine.patches, dtype=torch.bool)
    filled = engine.logits(everything).softmax(-1)[:, 0].gather(1, target[:, None])[:, 0]
    measurable = chance - filled >= SETTINGS["least_drop"]
    assert 0 < measurable.sum() == record["n_images"]
    expected = {}
    for gamma in EXPERIMENT["choose"]["gamma"]:
        maps = fgg.attribute(model, images, "attnlrp", gamma=gamma).relevance
        expected[str(gamma)] = float(fgg.srg(model, images, maps, patches_per_step=2)[measurable].mean())
    assert record["scores"] == pytest.approx(expected, abs=1e-5)
    assert len(set(expected.values())) == 3
    assert str(record["options"]["gamma"]) == max(expected, key=expected.get)


def test_a_job_takes_the_chosen_option(chosen, tmp_path):
    arguments = ["--model", "m", "--images", "i", "--settings", "{}", "--relevance", str(tmp_path / "r.parquet")]
    experiment = EXPERIMENT | {"options": {"gamma_projection": 0.5}}
    job = parse([*arguments, "--experiment", json.dumps(experiment), "--chosen", str(chosen)])
    gamma = read_json(chosen)["options"]["gamma"]
    assert job.resolved == {"method": "attnlrp", "options": {"gamma_projection": 0.5, "gamma": gamma}}
    missing = parse([*arguments, "--experiment", json.dumps(experiment), "--chosen", str(tmp_path / "none.json")])
    with pytest.raises(FggError, match=r"none\.json"):
        _ = missing.resolved


def test_nothing_to_measure(data, model_folder):  # noqa: F811
    with pytest.raises(FggError, match=r"no validation image of .* can be measured; give gamma in `options` instead"):
        option_choice.choice(model_folder, data / "val.parquet", EXPERIMENT, SETTINGS | {"least_drop": 2})
