"""Images inside Parquet shards, read a row group at a time."""

from __future__ import annotations

import functools
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def image_bytes(shard: Path, row: int) -> bytes:
    """The encoded image of a row; nothing where the row has none. Raises OSError for a shard that cannot be read."""
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
    """All images of a row group; the last one asked for is kept, since images are asked for in order."""
    with pq.ParquetFile(shard) as file:
        images = file.read_row_group(group, columns=["image.bytes"])["image"].to_pylist()
    return tuple((image or {}).get("bytes") or b"" for image in images)
