"""Merge the tables of shards, in their order: ``python -m fgg.jobs.merge``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from fgg.errors import FggError
from fgg.jobs.command import command
from fgg.tables import matrix, read_settings, read_table, write_table


def write_empty(path: str | Path, settings: Mapping[str, Any]) -> None:
    """Write the table of a shard without images."""
    write_table(path, {"image_id": pa.array([], pa.string())}, settings)


def merge(shards: Sequence[str | Path], output: str | Path) -> None:
    """Put the tables of shards together, in their order, as if they had been written as one.

    Raises:
        FggError: they were made with different settings, have different columns or share an image, or all are empty.
    """
    made = read_settings(shards[0])
    tables: list[pa.Table] = []
    for path in shards:
        if json.dumps(read_settings(path), sort_keys=True) != json.dumps(made, sort_keys=True):
            raise FggError(f"{path} and {shards[0]} were made with different settings; delete both and run it again")
        table = read_table(path)
        if not len(table):
            continue
        if tables and table.schema != tables[0].schema:
            raise FggError(f"{path} has other columns than {shards[0]}; delete both and run the workflow again")
        tables.append(table)
    if not tables:
        raise FggError(f"{shards[0]} and the other shards hold no image; prepare the dataset again")
    seen: set[str] = set()
    for table in tables:
        own = set(table["image_id"].to_pylist())
        if seen & own:
            raise FggError(f"the image {min(seen & own)} is in two shards; delete them and run the workflow again")
        seen |= own
    write_table(output, _columns(pa.concat_tables(tables)), made)


def _columns(table: pa.Table) -> dict[str, Any]:
    """The columns as the jobs had them when they wrote: lists as arrays (rows, k), anything else without chunks."""
    return {
        field.name: matrix(table, field.name)
        if pa.types.is_fixed_size_list(field.type)
        else table[field.name].combine_chunks()
        for field in table.schema
    }


@command
def main(argv: list[str] | None = None) -> None:
    """Merge the tables of shards."""
    parser = argparse.ArgumentParser(prog="python -m fgg.jobs.merge", description=__doc__)
    parser.add_argument("tables", nargs="+", type=Path, help="tables of the shards, in their order")
    parser.add_argument("--output", type=Path, required=True, help="table to write")
    arguments = parser.parse_args(argv)
    merge(arguments.tables, arguments.output)


if __name__ == "__main__":
    sys.exit(main())
