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
from fgg.tables import as_table, matrix, read_made_from, read_settings, read_table, write_table


def write_empty(path: str | Path, settings: Mapping[str, Any], made_from: Mapping[str, Any] | None = None) -> None:
    """Write the table of a shard without images."""
    write_table(path, {"image_id": pa.array([], pa.string())}, settings, made_from)


def merge(shards: Sequence[str | Path], output: str | Path) -> None:
    """Concatenate the tables of shards, in their order, as if they had been written as one.

    Raises:
        FggError: the tables have different settings or columns, share an image, or are all empty.
    """
    made = read_settings(shards[0]), read_made_from(shards[0])
    tables: list[pa.Table] = []
    for path in shards:
        if json.dumps((read_settings(path), read_made_from(path)), sort_keys=True) != json.dumps(made, sort_keys=True):
            raise FggError(
                f"{path} and {shards[0]} were made with different settings; delete both and run the workflow again"
            )
        table = read_table(path)
        if not len(table):
            continue
        if tables and table.schema != tables[0].schema:
            raise FggError(f"{path} does not have the columns of {shards[0]}; delete both and run the workflow again")
        tables.append(table)
    if not tables:
        raise FggError(f"{shards[0]} and the other shards have no images; prepare the dataset again")
    seen: set[str] = set()
    for table in tables:
        own = set(table["image_id"].to_pylist())
        if seen & own:
            raise FggError(f"the image {min(seen & own)} is in two shards; delete them and run the workflow again")
        seen |= own
    write_table(output, join_tables(tables), *made)


def join_tables(tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenate tables with the same columns, as if they had been made as one."""
    whole = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
    return as_table(
        {
            field.name: matrix(whole, field.name)
            if pa.types.is_fixed_size_list(field.type)
            else whole[field.name].combine_chunks()
            for field in whole.schema
        }
    )


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
