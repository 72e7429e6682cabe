"""Files that ``fgg explain`` writes on request: maps at the size of the model's input, and the features of every patch."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from fgg.attribution.patches import to_pixels
from fgg.errors import FggError
from fgg.explain.explanation import Explanation
from fgg.tables import atomic, write_table

LARGEST_TIFF = 2**31  # bytes; the format ends at twice that


class Maps:
    """The maps of the images that have been explained, kept per patch until they are written.

    Args:
        names: names of the maps.
        size: height and width of the model's input.
    """

    def __init__(self, names: Sequence[str], size: tuple[int, int]) -> None:
        self.names, self.size = list(names), size
        self.image_ids: list[str] = []
        self._kept: list[tuple[np.ndarray, tuple[int, int]]] = []

    def add(self, each: Explanation) -> None:
        """Keep the maps of an image."""
        self.image_ids.append(each.picture.name)
        self._kept.append((np.stack([each.maps[name] for name in self.names]), each.grid))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Images, maps, height and width."""
        return len(self._kept), len(self.names), *self.size

    def __iter__(self) -> Iterator[np.ndarray]:
        """The maps of each image, float32 (maps, height, width): every pixel has the relevance of its patch."""
        for values, grid in self._kept:
            yield to_pixels(torch.from_numpy(values), grid, self.size).numpy()

    def write(self, path: Path) -> None:
        """Write all maps in the form that the name's ending says: one array, named arrays, or a page per map.

        Raises:
            FggError: too many maps for a TIFF file.
        """
        form = path.suffix.lower()
        if form in (".tif", ".tiff") and 4 * int(np.prod(self.shape)) > LARGEST_TIFF:
            raise FggError(
                f"--maps {path}: {len(self._kept)} images are too many for a TIFF file; end the name in .npy"
            )
        with atomic(path) as temporary:
            {".npy": self._npy, ".npz": self._npz}.get(form, self._tiff)(temporary)

    def _npy(self, path: Path) -> None:
        with path.open("wb") as file:
            self._array(file)

    def _npz(self, path: Path) -> None:
        with zipfile.ZipFile(path, "w") as parts:
            with parts.open("maps.npy", "w", force_zip64=True) as file:
                self._array(file)
            for name, values in (("image_id", self.image_ids), ("map", self.names)):
                with parts.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array(file, np.array(values, dtype=np.str_), allow_pickle=False)

    def _array(self, file: Any) -> None:
        """Write an array of `shape`, an image at a time."""
        head = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(file, head)
        for values in self:
            file.write(np.ascontiguousarray(values, dtype="<f4").tobytes())

    def _tiff(self, path: Path) -> None:
        pages = [Image.fromarray(values) for maps in self for values in maps]
        named = [f"{image_id}: {name}" for image_id in self.image_ids for name in self.names]
        pages[0].save(path, format="TIFF", save_all=True, append_images=pages[1:], description=json.dumps(named))


class PatchFeatures:
    """The active features of every patch of the images that have been explained."""

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []

    def add(self, each: Explanation) -> None:
        """Keep the features of an image that are active at a patch."""
        for own in each.terms:
            patches, features = np.nonzero(own.activations)
            columns = {
                "image_id": pa.array([each.picture.name] * len(patches), type=pa.string()),
                "layer": np.full(len(patches), own.layer, dtype=np.int64),
                "patch": patches.astype(np.int64),
                "feature": features.astype(np.int64),
                "activation": own.activations[patches, features],
                "gradient": own.gradients[patches, features],
                "contribution": own.terms[patches, features],
            }
            self._parts.append(pa.table({name: pa.array(values) for name, values in columns.items()}))

    def write(self, path: Path, settings: dict[str, Any]) -> None:
        """Write all rows: by image, layer, patch and feature."""
        write_table(path, pa.concat_tables(self._parts).combine_chunks(), settings)
