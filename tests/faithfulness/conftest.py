"""Pictures for the tests of the metrics."""

import pytest
from pictures import draw


@pytest.fixture
def pictures_folder(tmp_path):
    """A folder of small pictures in three classes."""
    return draw(tmp_path / "pictures", per_class=14)
