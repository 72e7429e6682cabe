"""The embedded dataset of handwritten digits."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fgg.data.sources.records import Record, Source
from fgg.data.sources.registry import source

WHITEST = 16  # the largest grey value of the data


@dataclass(frozen=True)
class Digit(Record):
    """An image whose pixels are part of the source's only file; its bytes are a PNG of them."""

    pixels: bytes = b""

    @property
    def data(self) -> bytes:
        """A PNG file of 8 x 8 grey pixels."""
        buffer = io.BytesIO()
        Image.frombytes("L", (8, 8), self.pixels).save(buffer, "PNG")
        return buffer.getvalue()


@source(name="digits")
def digits(settings: Mapping[str, Any]) -> Source:
    """1,797 handwritten digits of 8 x 8 pixels, from the installed package ``scikit-learn``."""
    import numpy as np
    import sklearn.datasets

    table = sklearn.datasets.load_digits()
    grey = np.round(table.images * (255 / WHITEST)).astype(np.uint8)
    file = Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz"
    records: list[Record] = [
        Digit(
            f"digit{number:04}", f"digits.csv.gz, row {number}", str(label), None, file, pixels=grey[number].tobytes()
        )
        for number, label in enumerate(table.target)
    ]
    return Source(
        records,
        version=importlib.metadata.version("scikit-learn"),
        citation="Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository",
        licence="CC BY 4.0",
        checksum=hashlib.sha256(grey.tobytes() + table.target.astype(np.int64).tobytes()).hexdigest(),
    )
