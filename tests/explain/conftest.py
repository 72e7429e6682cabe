"""A tiny dataset with its model and SAEs, and the command far from it."""

from types import SimpleNamespace

import pytest
import tiny_dataset
import torch

import fgg
from fgg.cli import main
from fgg.data.load import load_split
from fgg.models import model_files


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tiny_dataset.make(tmp_path_factory.mktemp("explain"))


@pytest.fixture(scope="session")
def loaded(folder):
    """Model, preprocessing, split of the dataset."""
    model, preprocess, _ = model_files.load(folder / "data" / "models" / "tiny", torch.device("cpu"))
    return model, preprocess, load_split(folder / "data" / "prepared" / "tiny" / "test.parquet")


@pytest.fixture(scope="session")
def tiny(folder, loaded):
    """The same by name, with the SAEs, a gate and both maps of the third image."""
    model, preprocess, split = loaded
    saes = {layer: fgg.load_sae(folder / "data" / "saes" / "tiny" / f"layer_{layer}") for layer in (0, 1)}
    image = split.tensors(preprocess, [2])
    plain = fgg.attribute(model, image)
    gated = fgg.attribute(model, image, gate=fgg.Gate((0, 1)), saes=saes)
    return SimpleNamespace(
        model=model, preprocess=preprocess, split=split, saes=saes, image=image, plain=plain, gated=gated
    )


@pytest.fixture
def explain(folder, tmp_path, monkeypatch, capsys):
    """A function: arguments -> exit status, standard output, standard error; run far from the dataset."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, directory=True):
        where = ["--directory", str(folder)] if directory else []
        status = main(["explain", *map(str, arguments), *where])
        return status, *capsys.readouterr()

    return call
