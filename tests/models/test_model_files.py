"""A model's folder: written and read back, and damage is named."""

import json
import resource
import shutil

import pytest
import torch

from fgg.data.preprocess import Preprocess
from fgg.errors import FggError
from fgg.models import model_files
from fgg.models.vit import load_model

CPU = torch.device("cpu")
KWARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 2, "mlp_ratio": 2}
PREPROCESS = {"size": [32, 32], "mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0]}
RECORD = {
    "architecture": "vit_tiny_patch16_224",
    "kwargs": KWARGS,
    "classes": ["a", "b", "c"],
    "preprocess": PREPROCESS,
}


@pytest.fixture
def folder(tmp_path, model):
    model_files.save(tmp_path / "m", model, RECORD, {"seed": 1})
    return tmp_path / "m"


def refusal(folder):
    with pytest.raises(FggError) as error:
        model_files.load(folder, CPU)
    return str(error.value)


def test_a_model_comes_back(folder, model):
    back, preprocess, record = model_files.load(folder, CPU)
    assert not back.training and str(back) == str(model)
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(back(images), model(images))
    assert preprocess == Preprocess(size=(32, 32), mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    assert record == {**RECORD, "fgg": {"schema": 1, "settings": {"seed": 1}}}
    assert sorted(file.name for file in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_equal_models_give_equal_bytes(folder, tmp_path, model):
    model_files.save(tmp_path / "n", model, RECORD, {"seed": 1})
    for name in ("model.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "n" / name).read_bytes()


def test_a_missing_folder(tmp_path):
    assert "model.json does not exist; run the workflow" in refusal(tmp_path / "none")


def test_missing_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "model.safetensors does not exist" in refusal(folder)


@pytest.mark.parametrize("key", ["architecture", "kwargs", "classes", "preprocess"])
def test_a_record_without_a_key(folder, key):
    (folder / "model.json").write_text(json.dumps({k: v for k, v in RECORD.items() if k != key}))
    assert refusal(folder).startswith(f"{folder / 'model.json'} lacks '{key}'")


def test_a_damaged_record(folder):
    text = (folder / "model.json").read_text()
    (folder / "model.json").write_text(text[: len(text) // 2])
    assert "model.json is damaged" in refusal(folder)
    (folder / "model.json").write_text("[]")
    assert "model.json" in refusal(folder)


def test_damaged_weights(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])
    assert "model.safetensors cannot be read safely" in refusal(folder)


def test_weights_of_another_model(folder, tmp_path):
    model_files.save(
        tmp_path / "n", load_model("vit_tiny_patch16_224", {**KWARGS, "depth": 3}, num_classes=3), RECORD, {}
    )
    shutil.copy(tmp_path / "n" / "model.safetensors", folder)
    assert "missing: blocks.3." in refusal(folder)


def test_a_full_disk_is_an_error_of_the_system(tmp_path, model):
    """A limit on the size of files stands for the full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises((OSError, FggError)):
            model_files.save(tmp_path / "m", model, RECORD, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
