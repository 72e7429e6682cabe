"""A tiny model, tiny pictures prepared as the workflow does, and what is made of them."""

from pathlib import Path

import pytest
import torch
from pictures import draw

from fgg.data.load import load_split
from fgg.data.prepare import prepare
from fgg.data.preprocess import Preprocess
from fgg.models import build_model
from fgg.models.vit import load_model
from fgg.pipeline.configuration import check
from fgg.saes import build_sae

ROOT = Path(__file__).parents[1]
ARCHITECTURE = "vit_tiny_patch16_224"
KWARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 2, "mlp_ratio": 2}
FRACTIONS = {"train": 0.5, "val": 0.25, "test": 0.25}
LAYER = 1


@pytest.fixture(scope="session")
def defaults():
    """A dataset's settings with the schema's defaults, its model and SAE small."""
    dataset = {
        "source": "image_folder",
        "path": "pictures",
        "fractions": FRACTIONS,
        "model": {
            "architecture": ARCHITECTURE,
            "kwargs": KWARGS,
            "train": {"epochs": 10, "batch_size": 8, "patch_drop": 0.25, "full_epochs": 2, "learning_rate": 0.003},
        },
        "preprocess": {"resize": 32},
        "metrics": {"faithfulness_correlation": {"subset_size": 4}},
        "sae": {"layers": [LAYER], "train": {"expansion": 2, "k": 4, "tokens": 49152, "batch_size": 128}},
    }
    config = {"run": ["tiny"], "datasets": {"tiny": dataset}, "experiments": {"baselines": ["transmm"]}}
    return check(config, ROOT / "workflow" / "schemas" / "config.schema.yaml")["datasets"]["tiny"]


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A prepared dataset of 24 + 12 + 12 pictures in three classes."""
    folder = tmp_path_factory.mktemp("data")
    draw(folder / "pictures")
    settings = {"source": "image_folder", "path": str(folder / "pictures"), "fractions": FRACTIONS}
    prepare("tiny", {**settings, "max_skipped": 0.0, "seed": 0}, folder / "prepared")
    return folder / "prepared"


@pytest.fixture(scope="session")
def model_settings(defaults):
    """Settings of `build_model`; copy before changing."""
    return {"model": defaults["model"], "preprocess": defaults["preprocess"], "seed": 0, "device": "cpu"}


@pytest.fixture(scope="session")
def model_folder(data, model_settings, tmp_path_factory):
    """The folder of a trained model."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    build_model.build(data, model_settings, folder)
    return folder


@pytest.fixture(scope="session")
def sae_settings(defaults):
    """Settings of `build_sae`; copy before changing."""
    return {"weights": "train", "train": defaults["sae"]["train"], "seed": 0, "device": "cpu"}


@pytest.fixture(scope="session")
def sae_folder(data, model_folder, sae_settings, tmp_path_factory):
    """The folder of an SAE of the model's layer 1."""
    folder = tmp_path_factory.mktemp("sae") / f"layer_{LAYER}"
    build_sae.build(model_folder, data, LAYER, sae_settings, folder)
    return folder


@pytest.fixture(scope="session")
def pictures(data):
    """A function: split -> standardised images and labels."""

    def read(name):
        split = load_split(data / f"{name}.parquet")
        preprocess = Preprocess(size=(32, 32), mean=(0.36,) * 3, std=(0.15,) * 3)
        return split.tensors(preprocess), torch.from_numpy(split.labels)

    return read


@pytest.fixture
def model():
    """An untrained tiny model."""
    torch.manual_seed(0)
    return load_model(ARCHITECTURE, KWARGS, num_classes=3)
