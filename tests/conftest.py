"""What all tests share: no network, one thread, the reference vectors, and small random models of every kind."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "disabled"

from pathlib import Path

import definitions as slow
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from zoo import ZOO, make_images, make_model, make_sae

torch.set_num_threads(1)

REPOSITORY = Path(__file__).resolve().parents[1]


# Real runs of the workflow take longest: a half to three minutes for each of these files, the longest first. Each worker
# takes the next file when it has almost finished one.
FIRST = (
    "test_spread",
    "test_kills",
    "test_dag",
    "test_reruns",
    "test_notebooks",
    "test_studies",
    "test_docs",
    "test_module",
    "test_disk_and_memory",
    "test_outsiders",
    "test_planted_study",
    "test_circumstances",
    "test_sae_axis",
    "test_seeds_axis",
)


def pytest_collection_modifyitems(items):
    """Files that take long first, so that all workers end at about the same time."""
    places = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(FIRST)))


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of the reference vectors."""
    place = Path(os.environ.get("FGG_REFERENCE") or REPOSITORY.parent / "shared" / "reference")
    if not (place / "meta.json").is_file():
        pytest.skip(f"no reference vectors in {place}; set FGG_REFERENCE to their folder")
    return place


@pytest.fixture(scope="session", name="make_model")
def _make_model():
    """The function: seed, changes to timm's arguments -> model."""
    return make_model


@pytest.fixture(scope="session", name="make_images")
def _make_images():
    """The function: model, count, seed -> images."""
    return make_images


@pytest.fixture(scope="session", name="make_sae")
def _make_sae():
    """The function: seed, normalisation, width, features -> SAE."""
    return make_sae


@pytest.fixture(scope="session", params=ZOO, ids=str)
def model(request) -> VisionTransformer:
    """Each model of the zoo in turn."""
    return make_model(**ZOO[request.param])


@pytest.fixture(scope="session")
def plain() -> VisionTransformer:
    """The class-token model, for tests where the kind of model does not matter."""
    return make_model()


@pytest.fixture(scope="session")
def images(model) -> torch.Tensor:
    return make_images(model)


@pytest.fixture(scope="session")
def pictures(plain) -> torch.Tensor:
    """Images for the plain model."""
    return make_images(plain)


@pytest.fixture(scope="session")
def saes() -> dict:
    """SAEs of layers 0 (plain) and 1 (layer norm): both lie before the layers where the score cancels."""
    return {0: make_sae(10), 1: make_sae(11, "layer_norm")}


@pytest.fixture(scope="session")
def relevance(model) -> torch.Tensor:
    """Random relevance of both signs, (4, N)."""
    return torch.randn(4, model.patch_embed.num_patches, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="session")
def exact(model):
    """The model in float64, for the slow definitions."""
    return slow.precise(model)


@pytest.fixture(scope="session")
def exact_plain(plain):
    return slow.precise(plain)


@pytest.fixture(scope="session")
def patch(model):
    """Height and width of a patch, from the model's size and its number of patches."""
    height, width = model.patch_embed.img_size
    rows, columns = model.patch_embed.grid_size
    return height // rows, width // columns
