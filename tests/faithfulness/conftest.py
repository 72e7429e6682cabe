"""A slow float64 copy of each model, and how its images are cut."""

import definitions as slow
import pytest
from pictures import draw


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


@pytest.fixture
def pictures_folder(tmp_path):
    """A folder of small pictures in three classes."""
    return draw(tmp_path / "pictures", per_class=14)
