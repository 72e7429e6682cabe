"""The images that a source lists, and its facts about them.

A source only lists its images. Their bytes are read on demand, so that a list of a million images stays small, and
files that cannot be read are found where they are counted (`fgg.data.prepare`).
"""

from __future__ import annotations

import functools
import stat
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SPLITS = ("train", "val", "test")
MOST_FILE_BYTES = 2**30
MOST_GROUP_BYTES = 2**32  # the hub's shards have 100 images in a row group
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")


@dataclass(frozen=True)
class Record:
    """One image. ``path`` is relative to the source, ``split`` is None if the source has no splits.

    ``row`` is the image's row in ``file``, if that is a Parquet table. ``mask_file`` is the file of its mask, if it has
    one.
    """

    image_id: str
    path: str
    label_name: str
    split: str | None
    file: Path
    row: int | None = None
    mask_file: Path | None = None

    @property
    def data(self) -> bytes:
        """The file's bytes, read again on each access. Raises OSError."""
        return file_bytes(self.file) if self.row is None else image_bytes(self.file, self.row)

    @property
    def extras(self) -> dict[str, bytes | None]:
        """The image files of the source's extra columns, read again on each access; None where there is none.

        ``mask`` is inside where it is not black. Raises OSError.
        """
        return {} if self.mask_file is None else {"mask": file_bytes(self.mask_file)}


@dataclass(frozen=True)
class Source:
    """The images of a source, what was skipped unread (``path``, ``reason``, ``images`` if several), and its facts.

    ``classes`` are the names in the order that an external model uses; None means alphabetical order. If they are
    given, a split may lack a class.

    ``columns`` are the extra columns that the records fill, and ``unused_masks`` the files beside the masks that belong to
    no image.
    """

    records: list[Record]
    skipped: list[dict[str, Any]] = field(default_factory=list)
    version: str | None = None
    citation: str | None = None
    licence: str | None = None
    checksum: str | None = None  # of the annotations; the images' checksum is in dataset.json
    classes: list[str] | None = None
    columns: tuple[str, ...] = ()
    unused_masks: list[str] = field(default_factory=list)


def file_bytes(path: Path) -> bytes:
    """The bytes of an image file. Raises OSError if it cannot be read, is no regular file, or too large for an image."""
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):  # a pipe would never end
        raise OSError(None, "not a regular file", str(path))
    if facts.st_size > MOST_FILE_BYTES:
        raise OSError(None, f"larger than {MOST_FILE_BYTES:,} bytes", str(path))
    return path.read_bytes()


def image_bytes(shard: Path, row: int) -> bytes:
    """The encoded image of a row; empty if the row has none.

    Raises:
        OSError: the shard cannot be read, or claims more than `MOST_GROUP_BYTES` for the images around this one.
    """
    try:
        starts = _starts(shard)
        group = bisect_right(starts, row) - 1
        return _group(shard, group)[row - starts[group]]
    except pa.ArrowException as error:
        raise OSError(None, str(error), str(shard)) from None


@functools.lru_cache(maxsize=512)
def _starts(shard: Path) -> tuple[int, ...]:
    """The first row of each row group."""
    with pq.ParquetFile(shard) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    return tuple(accumulate(sizes[:-1], initial=0))


@functools.lru_cache(maxsize=1)
def _group(shard: Path, group: int) -> tuple[bytes, ...]:
    """All images of a row group; the last group is cached, since images are read in order."""
    with pq.ParquetFile(shard) as file:
        own = file.metadata.row_group(group)
        columns = [own.column(at) for at in range(own.num_columns)]
        images = next(column for column in columns if column.path_in_schema == "image.bytes")
        if images.total_uncompressed_size > MOST_GROUP_BYTES:
            claimed = f"{images.total_uncompressed_size:,} bytes of images"
            raise OSError(None, f"a row group claims {claimed}; allowed are {MOST_GROUP_BYTES:,}", str(shard))
        repeated = images.has_dictionary_page
    # An image that is stored once for many rows is held once.
    with pq.ParquetFile(shard, read_dictionary=["image.bytes"] if repeated else None) as file:
        found = file.read_row_group(group, columns=["image.bytes"])["image"]
    return tuple(data for chunk in found.chunks for data in _images(chunk))


def _images(chunk: pa.StructArray) -> list[bytes]:
    own = chunk.field("bytes")
    if isinstance(own, pa.DictionaryArray):
        values, places = own.dictionary.to_pylist(), own.indices.to_pylist()
        data = [None if place is None else values[place] for place in places]
    else:
        data = own.to_pylist()
    return [own or b"" if valid else b"" for own, valid in zip(data, chunk.is_valid().to_pylist(), strict=True)]
