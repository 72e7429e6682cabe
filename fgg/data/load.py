"""Read a prepared split: its labels at once, its images on demand."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from fgg import tables
from fgg.data.decoded import decoded
from fgg.data.images import decode, eight_bit
from fgg.data.preprocess import Preprocess
from fgg.data.stratified import apportion, keyed_order
from fgg.errors import FggError

COLUMNS = ("image_id", "image", "label", "label_name")


@dataclass(frozen=True)
class Split:
    """Images of a split, sorted by image_id.

    ``labels`` (n,) int64 are indices into ``classes``; ``label_names`` are their names, per image.
    ``rows`` (n,) int64 are the images' row numbers in the file ``path``.
    """

    path: Path
    image_ids: list[str]
    labels: np.ndarray
    label_names: list[str]
    classes: list[str]
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.image_ids)

    def part(self, rows: slice) -> Split:
        """Some of the images; the classes stay the same."""
        return replace(
            self,
            image_ids=self.image_ids[rows],
            labels=self.labels[rows],
            label_names=self.label_names[rows],
            rows=self.rows[rows],
        )

    def has(self, column: str) -> bool:
        """Whether the file has a column, such as ``mask``. Raises FggError if it is missing or damaged."""
        tables.read_table(self.path, columns=[])  # reports a missing or damaged file
        return column in pq.read_schema(self.path).names

    def tensors(
        self,
        preprocess: Preprocess,
        indices: Sequence[int] | np.ndarray | slice | None = None,
        column: str = "image",
        threads: int = 1,
    ) -> Tensor:
        """Model inputs (n, C, H, W) float32 of all images, or of those at ``indices``, in that order.

        One thread keeps the encoded bytes of one row group in memory at a time; several keep those of all these images.

        Args:
            preprocess: what makes an input of an image.
            indices: places in this split; None for all.
            column: ``without_cue`` or ``without_decoy`` for these variants of planted images, NaN where there is none.
            threads: number of threads that decode; it changes no value.

        Raises:
            FggError: the file lacks the column, or it or an image in it is damaged.
        """
        return self._filled(preprocess, indices, column, threads)

    def coverage(
        self,
        preprocess: Preprocess,
        patch_size: tuple[int, int],
        indices: Sequence[int] | np.ndarray | slice | None = None,
        kind: str = "mask",
    ) -> Tensor:
        """The share of each patch that lies inside the mask of its image, 0 to 1: float32 (n, N), patches row by row.

        The mask is resized and cropped like its image. A row is NaN where the image has no mask.

        Args:
            preprocess: what makes the model's input of an image.
            patch_size: height and width of a patch, in pixels of the model's input.
            indices: places in this split; None for all.
            kind: ``mask``, or ``decoy`` for the decoy of planted images.

        Raises:
            FggError: the file has no such masks, it or a mask in it is damaged, or the patches do not fit the input.
        """
        rows = self.rows if indices is None else self.rows[indices]
        (height, width), sides = preprocess.output_size, tuple(patch_size)
        if height % sides[0] or width % sides[1]:
            raise FggError(f"patches of {sides} pixels do not divide the input of {height} x {width}; give the model's")
        out = torch.full((len(rows), (height // sides[0]) * (width // sides[1])), torch.nan)
        for place, mask in self._images(rows, kind):
            if mask is not None:
                area = preprocess.area(mask)
                out[place] = area.unflatten(1, (-1, sides[1])).unflatten(0, (-1, sides[0])).mean((1, 3)).flatten()
        return out

    def pixels(
        self,
        preprocess: Preprocess,
        indices: Sequence[int] | np.ndarray | slice | None = None,
        threads: int = 1,
    ) -> Tensor:
        """Like `tensors`, but in 0…1 and not yet standardised. Raises the same errors."""
        return self._filled(preprocess, indices, threads=threads, standardise=False)

    def coloured(self) -> int:
        """The number of images in colour, that is, whose red, green and blue differ in a pixel. Raises like `tensors`."""
        arrays = (np.asarray(image) for _, image in self._images(self.rows) if image is not None)
        return sum(array.ndim == 3 and bool((array != array[..., :1]).any()) for array in arrays)

    def _filled(
        self,
        preprocess: Preprocess,
        indices: Sequence[int] | np.ndarray | slice | None,
        column: str = "image",
        threads: int = 1,
        standardise: bool = True,
    ) -> Tensor:
        rows = self.rows if indices is None else self.rows[indices]
        out = torch.empty(len(rows), preprocess.n_channels, *preprocess.output_size)
        finished = preprocess.standardised if standardise else torch.Tensor.contiguous
        keeping = decoded(self.path, preprocess) if column == "image" else contextlib.nullcontext()
        with keeping as kept:
            missing = []
            for place, row in enumerate(rows):
                pixels = kept.get(row) if kept else None
                if pixels is None:
                    missing.append(place)
                else:
                    out[place] = finished(pixels)

            def fill(entry: tuple[int, dict]) -> None:
                place, image = missing[entry[0]], _decode(self.path, entry[1], column)
                if image is None:
                    out[place] = torch.nan
                    return
                pixels = preprocess.pixels(image)
                if kept:
                    kept.put(rows[place], pixels)
                out[place] = finished(pixels)

            encoded = self._encoded(rows[missing], column)
            if threads == 1:
                for entry in encoded:
                    fill(entry)
                return out
            # Threads that silence warnings restore each other's filters; here the first ones come back.
            with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
                warnings.filterwarnings("ignore", module="PIL")
                for _ in pool.map(fill, encoded):
                    pass
        return out

    def picture(self, i: int) -> Image.Image:
        """Image i, upright, at its original size, in mode L or RGB. Raises like `tensors`."""
        image = next(self._images(self.rows[[i]]))[1]
        assert image is not None
        return eight_bit(image)

    def _images(self, rows: np.ndarray, column: str = "image") -> Iterator[tuple[int, Image.Image | None]]:
        """(place in rows, image), each row group read once; None where an extra column has no image."""
        for place, row in self._encoded(rows, column):
            yield place, _decode(self.path, row, column)

    def _encoded(self, rows: np.ndarray, column: str) -> Iterator[tuple[int, dict]]:
        """(place in rows, image_id and the column), each row group read once."""
        if column != "image" and not self.has(column):
            raise FggError(f"{self.path} has no column {column}; its images have no such masks or variants")
        try:
            with pq.ParquetFile(self.path, page_checksum_verification=True) as file:
                sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
                starts = np.cumsum([0, *sizes])
                groups = np.searchsorted(starts, rows, side="right") - 1
                for group in np.unique(groups):
                    table = file.read_row_group(group, columns=["image_id", column])
                    for place in np.flatnonzero(groups == group):
                        yield int(place), table.slice(rows[place] - starts[group], 1).to_pylist()[0]
        except (pa.ArrowException, OSError) as error:
            raise FggError(f"{self.path} cannot be read ({error}); delete it and run the workflow again") from None


def _decode(path: Path, row: dict, column: str) -> Image.Image | None:
    name = f"{row['image_id']} in {path}"
    if column != "image":
        return None if row[column] is None else decode(row[column], f"{name}, column {column},")
    data = (row["image"] or {}).get("bytes")
    if data is None:
        raise FggError(f"image {name} has no bytes in the file; prepare the dataset again")
    return decode(data, name)


def load_split(path: str | Path, max_images: int | None = None, seed: int = 0) -> Split:
    """Read a split, or a class-stratified subset of ``max_images`` that depends on (seed, image_id) alone.

    Within a class, a larger subset holds the images of a smaller one. The number of images per class follows
    the largest-remainder method, with at least one image of each class if ``max_images`` allows.

    Raises:
        FggError: the file is missing or damaged, lacks a column, repeats an image_id, or its labels
            do not fit their names.
    """
    path = Path(path)
    _check_columns(path)
    table = tables.read_table(path, columns=["image_id", "label", "label_name"]).to_pydict()
    rows = {image_id: row for row, image_id in enumerate(table["image_id"])}
    _check_ids(path, table["image_id"])
    names = _class_names(path, table["label"], table["label_name"])
    chosen = sorted(rows)
    if max_images is not None and max_images < len(chosen):
        chosen = _subset(table["image_id"], table["label"], max_images, seed)
    own = np.array([rows[image_id] for image_id in chosen], dtype=np.int64)
    labels = np.array(table["label"], dtype=np.int64)[own]
    return Split(path, chosen, labels, [names[label] for label in labels], names, own)


def explained_split(path: str | Path, settings: Mapping[str, Any]) -> Split:
    """The images of a split that are explained.

    Args:
        settings: ``sample`` (what the dataset was prepared with; None for no sample), ``max_images`` and ``seed``.

    Raises:
        FggError: as `load_split`, or the split was prepared without this sample.
    """
    if settings.get("sample") is None:
        return load_split(path, settings["max_images"], settings["seed"])
    split = load_split(path)
    wanted = json.loads((pq.read_schema(path).metadata or {}).get(b"fgg", b"{}")).get("sample")
    if not wanted:
        raise FggError(f"{path} was prepared without a sample; delete it and run the workflow again")
    places = {image_id: place for place, image_id in enumerate(split.image_ids)}
    if missing := [image_id for image_id in wanted if image_id not in places]:
        raise FggError(
            f"{path} lacks images of the sample: {', '.join(missing[:5])}; delete it and run the workflow again"
        )
    own = sorted(places[image_id] for image_id in wanted)
    names = [split.label_names[place] for place in own]
    return replace(
        split,
        image_ids=[split.image_ids[place] for place in own],
        labels=split.labels[own],
        label_names=names,
        rows=split.rows[own],
    )


def _subset(image_ids: list[str], labels: list[int], max_images: int, seed: int) -> list[str]:
    """Sorted ids of a stratified subset."""
    members: dict[int, list[str]] = {label: [] for label in sorted(set(labels))}
    for image_id, label in zip(image_ids, labels, strict=True):
        members[label].append(image_id)
    quotas = apportion(max_images, [len(ids) for ids in members.values()])
    chosen = [keyed_order(ids, seed, "subset")[:quota] for ids, quota in zip(members.values(), quotas, strict=True)]
    return sorted(image_id for ids in chosen for image_id in ids)


def _check_columns(path: Path) -> None:
    tables.read_table(path, columns=[])  # reports a missing or damaged file
    missing = [name for name in COLUMNS if name not in pq.read_schema(path).names]
    if missing:
        raise FggError(f"{path} lacks the column {', '.join(missing)}; delete it and run the workflow again")


def _check_ids(path: Path, image_ids: list[str]) -> None:
    if not image_ids:
        raise FggError(f"{path} has no images; prepare the dataset again")
    repeated = [str(image_id) for image_id, n in Counter(image_ids).items() if n > 1 or image_id is None]
    if repeated:
        raise FggError(f"{path} repeats the image_id {', '.join(repeated[:5])}; prepare the dataset again")


def _class_names(path: Path, labels: list[int], label_names: list[str]) -> list[str]:
    """Class names by label: one name per label, labels 0…K-1 without gaps; classes in the metadata may lack images."""
    note = json.loads((pq.read_schema(path).metadata or {}).get(b"fgg", b"{}"))
    pairs = sorted(set(zip(labels, label_names, strict=True)) | set(enumerate(note.get("classes", []))), key=str)
    names = dict(pairs)
    if len(pairs) != len(names) or sorted(names, key=str) != sorted(range(len(names)), key=str):
        raise FggError(f"{path}: labels must be 0 to K-1 with one name each, found {pairs[:8]}; prepare it again")
    return [names[label] for label in range(len(names))]
