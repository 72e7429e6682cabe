"""Maps that were computed elsewhere: relevance per patch or per pixel, by image id, from Parquet or ``.npz``."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.attribution.patches import to_patches
from fgg.data.claimed_sizes import check_npz, check_parquet
from fgg.errors import FggError
from fgg.models.vit import num_patches, patch_size

FORM = (
    "a map file is Parquet with the columns image_id and relevance, or .npz with the arrays image_id and relevance; "
    "relevance has a row per image: one value per patch, or a map (H, W) or (C, H, W) per pixel of the model's input"
)
NAMED = 5  # images that an error message names
ROWS = 256  # rows that are read at once
MORE = 4  # how many times more maps than images a file may hold, so that a message can name those that are too many
COLOURS, ID_BYTES = 4, 2**12  # of a pixel, and of an image id


@dataclass(frozen=True)
class Maps:
    """Relevance by image id; each float32 (N,)."""

    path: Path
    rows: dict[str, np.ndarray]

    def relevance(self, image_ids: Sequence[str], patches: int) -> Tensor:
        """The maps of these images, (B, N)."""
        return torch.from_numpy(np.stack([self.rows[name] for name in image_ids]).reshape(len(image_ids), patches))


def read_maps(path: Path, image_ids: Sequence[str], model: VisionTransformer) -> Maps:
    """Read a file of maps for exactly these images.

    Raises:
        FggError: the file does not exist or has another format; images are missing, unknown or duplicated; maps have
            another size; or values are not finite numbers. The message names the images.
    """
    if not path.is_file():
        raise FggError(f"experiments.external: {path} does not exist; {FORM}")
    size = tuple(model.patch_embed.img_size)
    shapes = {(num_patches(model),): "patch", (size[0] * size[1],): "pixel", size: "pixel"}
    rows: dict[str, np.ndarray] = {}
    twice, misshapen, infinite = [], [], []
    try:
        for name, values in _entries(path, len(image_ids), COLOURS * size[0] * size[1]):
            found = _numbers(path, name, values)
            kind = shapes.get(found.shape) or ("pixel" if found.ndim == 3 and found.shape[1:] == size else None)
            if name in rows:
                twice.append(name)
            elif kind is None:
                misshapen.append(f"{name} {found.shape}")
            elif np.isinf(found).any():
                infinite.append(name)
            elif kind == "patch":
                rows[name] = found
            else:
                pixels = torch.from_numpy(found).reshape(-1, *size)
                rows[name] = to_patches(pixels.sum(0, keepdim=True), patch_size(model))[0].numpy()
    except (OSError, ValueError, pa.ArrowException, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise FggError(f"experiments.external: {path} cannot be read ({error}); {FORM}") from None
    known = {*rows, *twice, *infinite, *(each.split(" (")[0] for each in misshapen)}
    faults = [
        ("maps are missing for", [name for name in image_ids if name not in known], "make them"),
        ("maps are there for images that are not explained:", sorted(known - set(image_ids)), "leave them out"),
        ("maps are there twice for", twice, "leave one out"),
        (f"maps must have {num_patches(model)} values, or {size[0]} x {size[1]}, not as for", misshapen, "mend them"),
        ("maps hold infinite values for", infinite, "mend them"),
    ]
    told = [f"{what} {_listed(names)}; {remedy}" for what, names, remedy in faults if names]
    if told:
        raise FggError(f"experiments.external: {path}: " + ". ".join(told))
    return Maps(path, rows)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more images" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _entries(path: Path, images: int, pixels: int) -> Iterator[tuple[str, Any]]:
    """(image id, values) of every row of the file, which may hold so many values per image."""
    rows = MORE * images + ROWS
    if path.suffix == ".npz":
        check_npz(path, {"image_id": rows * ID_BYTES, "relevance": rows * pixels * np.dtype(np.float64).itemsize})
        with np.load(path, allow_pickle=False) as arrays:
            if "image_id" not in arrays or "relevance" not in arrays:
                raise ValueError(f"it holds the arrays {', '.join(arrays.files)}")
            names, relevance = arrays["image_id"], arrays["relevance"]
        if names.ndim != 1 or len(names) != len(relevance):
            raise ValueError(f"image_id has {names.shape}, relevance {relevance.shape}")
        yield from zip(map(str, names.tolist()), relevance, strict=True)
        return
    with pq.ParquetFile(path) as file:
        missing = {"image_id", "relevance"} - set(file.schema_arrow.names)
        if missing:
            raise ValueError(f"it lacks the column {', '.join(sorted(missing))}")
        check_parquet(file, ("image_id", "relevance"), rows, rows * pixels)
        for batch in file.iter_batches(ROWS, columns=["image_id", "relevance"]):
            names = batch.column("image_id").cast(pa.string()).to_pylist()
            yield from zip(map(str, names), batch.column("relevance"), strict=True)


def _numbers(path: Path, name: str, values: Any) -> np.ndarray:
    """One image's values as float32; a list of lists becomes an array."""
    own = values.as_py() if isinstance(values, pa.Scalar) else values
    try:
        found = np.asarray(own)
        if found.dtype.kind not in "fiub":
            raise ValueError(f"values of type {found.dtype}")
        return found.astype(np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError(f"the map of {name} is no array of numbers: {error}") from None
