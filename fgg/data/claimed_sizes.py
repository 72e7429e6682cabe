"""What tables and arrays of others claim to hold, checked before it is read: some bytes can claim terabytes."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

HEADER = 2**16  # bytes of a numpy file before its content


def check_parquet(file: pq.ParquetFile, columns: Sequence[str], rows: int, values: int) -> None:
    """Check the numbers that a Parquet file claims.

    Args:
        file: the file, of which only the end has been read.
        columns: the columns that will be read.
        rows: the most rows.
        values: the most values per column; a repeated value counts each time.

    Raises:
        ValueError: it claims more.
    """
    claimed = file.metadata.num_rows
    if not 0 <= claimed <= rows:
        raise ValueError(f"it claims {claimed:,} rows; allowed are {rows:,}")
    counts: dict[str, int] = {}
    for group in range(file.metadata.num_row_groups):
        own = file.metadata.row_group(group)
        for at in range(own.num_columns):
            column = own.column(at)
            if column.path_in_schema.split(".")[0] in columns:
                counts[column.path_in_schema] = counts.get(column.path_in_schema, 0) + column.num_values
    for name, count in counts.items():
        if not 0 <= count <= values:
            raise ValueError(f"its column {name.split('.')[0]} claims {count:,} values; allowed are {values:,}")


def check_npz(path: Path, most: Mapping[str, int]) -> None:
    """Check the arrays of an ``.npz`` file without reading their content.

    Args:
        path: the file.
        most: name of an array that will be read -> its most bytes.

    Raises:
        ValueError: it is no such file, holds an array twice or packed in another way, an array of objects, or one that is
            larger than allowed, or than what the file holds of it.
        zipfile.BadZipFile: it is damaged.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no .npz file")
    with zipfile.ZipFile(path) as parts:
        entries = [entry for entry in parts.infolist() if entry.filename.removesuffix(".npy") in most]
        if len(entries) > len({entry.filename.removesuffix(".npy") for entry in entries}):
            raise ValueError("it holds an array twice")
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"its array {name} is packed in another way than numpy's")
            if entry.file_size > most[name] + HEADER:
                raise ValueError(f"its array {name} has {entry.file_size:,} bytes; allowed are {most[name]:,}")
            with parts.open(entry) as content:
                shape, dtype = _header(content)
            if dtype.hasobject:
                raise ValueError(f"its array {name} holds objects, not numbers or text")
            if math.prod(shape) * dtype.itemsize > entry.file_size or min(shape, default=0) < 0:
                raise ValueError(f"its array {name} claims the shape {shape}, which the file does not hold")


def _header(content: Any) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and the kind of values of a numpy file."""
    version = np.lib.format.read_magic(content)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"a file of numpy's version {version} is unknown")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(content)
    return shape, dtype
