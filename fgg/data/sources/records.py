"""The images that a source lists, and its facts about them.

A source only lists its images. Their bytes are read on demand, so that a list of a million images stays small, and
files that cannot be read are found where they are counted (`fgg.data.prepare`).
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SPLITS = ("train", "val", "test")
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
        return self.file.read_bytes() if self.row is None else image_bytes(self.file, self.row)

    @property
    def extras(self) -> dict[str, bytes | None]:
        """The image files of the source's extra columns, read again on each access; None where there is none.

        ``mask`` is inside where it is not black. Raises OSError.
        """
        return {} if self.mask_file is None else {"mask": self.mask_file.read_bytes()}


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


def image_bytes(shard: Path, row: int) -> bytes:
    """The encoded image of a row; empty if the row has none. Raises OSError for a shard that cannot be read."""
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
        images = file.read_row_group(group, columns=["image.bytes"])["image"].to_pylist()
    return tuple((image or {}).get("bytes") or b"" for image in images)
