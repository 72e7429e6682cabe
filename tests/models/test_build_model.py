"""A dataset's model: what its record says is measured again here, by hand."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fgg.data.load import load_split
from fgg.errors import FggError
from fgg.models import build_model, model_files
from fgg.models.layer_diagnosis import diagnose
from fgg.models.vit import load_model

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:lbfgs failed")


def changed(settings, **changes):
    """The settings, with keys of the model and of the preprocessing changed."""
    settings = copy.deepcopy(settings)
    for part in ("model", "preprocess"):
        settings[part] |= changes.get(part, {})
    return settings


@pytest.fixture(scope="module")
def record(model_folder):
    return json.loads((model_folder / "model.json").read_text())


def inputs(data, preprocess, name):
    split = load_split(data / f"{name}.parquet")
    return split.tensors(preprocess), split.labels


def test_the_record_says_what_the_model_is(record, model_settings):
    assert record["architecture"] == "vit_tiny_patch16_224" and record["weights"] == "train"
    assert record["kwargs"] == model_settings["model"]["kwargs"]
    assert record["classes"] == ["bar", "disc", "noise"]
    assert record["fgg"] == {"schema": 1, "settings": model_settings}
    assert [entry["epoch"] for entry in record["training"]] == list(range(1, 11))
    assert record["training"][-1]["loss"] < record["training"][0]["loss"]


def test_the_statistics_are_those_of_the_training_images(record, data):
    pixels = []
    for image in load_split(data / "train.parquet")._images(np.arange(24)):
        pixels.append(np.asarray(image[1].convert("RGB").resize((32, 32))) / 255)
    values = np.stack(pixels).reshape(-1, 3)
    assert record["preprocess"]["mean"] == pytest.approx(values.mean(0).tolist(), abs=1e-5)
    assert record["preprocess"]["std"] == pytest.approx(values.std(0).tolist(), abs=1e-5)
    assert record["preprocess"]["size"] == [32, 32]


def test_accuracies_measured_again(record, data, model_folder):
    model, preprocess, _ = model_files.load(model_folder, CPU)
    _, train_labels = inputs(data, preprocess, "train")
    majority = max(range(3), key=lambda c: (train_labels == c).sum())
    assert list(record["accuracy"]) == ["train", "val", "test"]
    for name, found in record["accuracy"].items():
        images, labels = inputs(data, preprocess, name)
        predicted = np.array([int(model(image[None]).argmax()) for image in images])
        assert found["images"] == len(labels)
        assert found["accuracy"] == pytest.approx(np.mean(predicted == labels))
        recalls = [np.mean(predicted[labels == c] == c) for c in range(3)]
        assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
        assert found["majority_accuracy"] == pytest.approx(np.mean(labels == majority))
    assert record["accuracy"]["val"]["accuracy"] > 0.5, "the pictures can be told apart"


def test_the_linear_baseline_measured_again(record, data, model_folder):
    from sklearn.linear_model import LogisticRegression

    _, preprocess, _ = model_files.load(model_folder, CPU)

    def grey(name):
        images, labels = inputs(data, preprocess, name)
        small = torch.nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), build_model.BASELINE_SIDE)
        return small.flatten(1).numpy(), labels

    x, y = grey("train")
    mean, std = x.mean(0), x.std(0)
    fitted = [LogisticRegression(C=c, max_iter=1000).fit((x - mean) / std, y) for c in build_model.BASELINE_C]
    accuracies = [
        {
            name: np.mean(each.predict((grey(name)[0] - mean) / std) == grey(name)[1])
            for name in ("train", "val", "test")
        }
        for each in fitted
    ]
    chosen = max(accuracies, key=lambda each: each["val"])
    for name, value in chosen.items():
        assert record["accuracy"][name]["logistic_regression_accuracy"] == pytest.approx(value)


def test_the_linear_baseline_is_the_one_that_is_best_on_the_validation_split():
    """Noise with a weak signal, where the strength of the penalty matters."""
    from sklearn.linear_model import LogisticRegression

    draw, seen = np.random.default_rng(0), {}
    signal = draw.normal(size=(3, 1, 32, 32))
    for name in ("train", "val", "test"):
        labels = np.arange(60) % 3
        noisy = draw.normal(size=(60, 1, 32, 32)) + 0.08 * signal[labels]
        images = torch.from_numpy(noisy).float().expand(-1, 3, -1, -1)
        seen[name] = build_model.Seen(
            labels, labels, build_model.grey(images, "rgb"), images.double().mean((2, 3)).numpy()
        )
        small = torch.nn.functional.adaptive_avg_pool2d(images[:, :1], build_model.BASELINE_SIDE)
        assert np.allclose(seen[name].grey, small.flatten(1), atol=1e-5)
    found = build_model.measure(seen)

    mean, std = seen["train"].grey.mean(0), seen["train"].grey.std(0)
    fitted = [
        LogisticRegression(C=c, max_iter=1000).fit((seen["train"].grey - mean) / std, seen["train"].labels)
        for c in build_model.BASELINE_C
    ]
    scores = [{n: np.mean(f.predict((seen[n].grey - mean) / std) == seen[n].labels) for n in seen} for f in fitted]
    assert len({score["val"] for score in scores}) > 1, "the choice must matter"
    best = max(scores, key=lambda score: score["val"])
    assert {n: found[n]["logistic_regression_accuracy"] for n in seen} == pytest.approx(best)


def test_the_layers_are_diagnosed_on_the_validation_split(record, data, model_folder):
    model, preprocess, _ = model_files.load(model_folder, CPU)
    again = diagnose(model, inputs(data, preprocess, "val")[0][: build_model.DIAGNOSED_IMAGES])
    assert [entry["status"] for entry in record["layers"]] == ["ok", "ok", "cancelled", "zero"]
    for entry, other in zip(record["layers"], again, strict=True):
        assert entry["survives"] == pytest.approx(other["survives"], rel=1e-3, abs=1e-6)


def test_a_second_run_gives_the_same_bytes(data, model_settings, model_folder, tmp_path, capsys):
    build_model.build(data, model_settings, tmp_path)
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (model_folder / name).read_bytes()
    said = capsys.readouterr().out
    assert " test: accuracy" in said and "layer 3: residual x gradient zero" in said


def test_weights_from_a_path_are_measured_not_trained(data, model_settings, model_folder, tmp_path):
    path = str(model_folder / "model.safetensors")
    record = build_model.build(data, changed(model_settings, model={"weights": path}), tmp_path)
    assert record["training"] == [] and record["weights"] == path
    before, after = load_file(path), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    own = load_model("vit_tiny_patch16_224").pretrained_cfg
    assert record["preprocess"]["mean"] == list(own["mean"]), "weights from elsewhere come with timm's statistics"
    assert record["preprocess"]["std"] == list(own["std"])


def test_given_statistics_are_kept(data, model_settings, model_folder, tmp_path):
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    path = str(model_folder / "model.safetensors")
    settings = changed(model_settings, model={"weights": path}, preprocess={"mean": mean, "std": std})
    assert build_model.build(data, settings, tmp_path)["preprocess"] == {
        "size": [32, 32],
        "crop": None,
        "channels": "rgb",
        "interpolation": "bilinear",
        "mean": mean,
        "std": std,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preprocess": {"channels": "grey"}}, "preprocess.channels: 'grey' gives 1 channels, but the model takes 3;"),
        ({"preprocess": {"resize": 40}}, "preprocess: the output size is (40, 40), but the model takes (32, 32);"),
        ({"preprocess": {"resize": 40, "crop": 24}}, "the output size is (24, 24), but the model takes (32, 32);"),
        ({"preprocess": {"mean": [0.5]}}, "preprocess.mean: 1 values, but channels 'rgb' have 3;"),
        ({"model": {"architecture": "vit_nope"}}, "model.architecture: timm has no model 'vit_nope'"),
        ({"model": {"weights": "none.pth"}}, "model.weights: none.pth does not exist"),
    ],
)
def test_settings_that_do_not_fit_end_before_training(data, model_settings, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(build_model, "train", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(FggError) as error:
        build_model.build(data, changed(model_settings, **changes), tmp_path / "m")
    assert message in str(error.value)
    assert not (tmp_path / "m").exists()


def test_no_resize_takes_the_models_own_size(data, model_settings, tmp_path):
    settings = changed(model_settings, preprocess={"resize": None, "channels": "extremes"})
    settings["model"]["train"]["epochs"] = 1
    record = build_model.build(data, settings, tmp_path)
    assert record["preprocess"]["size"] == [32, 32] and record["preprocess"]["channels"] == "extremes"


def test_weights_for_other_classes(data, model_settings, tmp_path):
    torch.save(
        load_model("vit_tiny_patch16_224", model_settings["model"]["kwargs"], num_classes=5).state_dict(),
        tmp_path / "w.pth",
    )
    with pytest.raises(FggError, match=r"head\.weight is \(5, 24\), not \(3, 24\)"):
        build_model.build(data, changed(model_settings, model={"weights": str(tmp_path / "w.pth")}), tmp_path / "m")


def test_pretrained_weights_must_have_the_datasets_classes(data, model_settings, tmp_path, monkeypatch):
    monkeypatch.setattr(
        build_model,
        "load_model",
        lambda name, kwargs, *a, **k: load_model(name, kwargs, num_classes=k.get("num_classes")),
    )
    with pytest.raises(FggError, match="the pretrained 'vit_tiny_patch16_224' has 1000 classes, but the dataset has 3"):
        build_model.build(data, changed(model_settings, model={"weights": "pretrained"}), tmp_path / "m")


def test_data_that_are_not_there(model_settings, tmp_path):
    with pytest.raises(FggError, match=r"dataset\.json does not exist; run the workflow"):
        build_model.build(tmp_path / "none", model_settings, tmp_path / "m")
