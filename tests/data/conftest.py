"""Small synthetic images, and folders of them."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}


@pytest.fixture
def picture():
    """A function: name -> a colour image that depends on the name alone."""

    def make(name="x", height=12, width=16):
        values = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (height, width, 3))
        return Image.fromarray(values.astype(np.uint8))

    return make


@pytest.fixture
def encode():
    """A function: PIL image, format -> bytes."""

    def to_bytes(image, kind="PNG", **options):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return to_bytes


@pytest.fixture
def folder(tmp_path, picture):
    """A function: {folder: number of images} -> DIR with such class folders."""

    def make(counts, name="images"):
        root = tmp_path / name
        for place, n in counts.items():
            (root / place).mkdir(parents=True)
            for i in range(n):
                picture(f"{place}/{i}").save(root / place / f"{i:03}.png")
        return root

    return make


@pytest.fixture
def settings():
    """A function: DIR -> the settings of `fgg.data.prepare`."""

    def make(path, **changes):
        base = {"source": "image_folder", "path": str(path), "fractions": FRACTIONS, "max_skipped": 0.0, "seed": 0}
        return {**base, **changes}

    return make
