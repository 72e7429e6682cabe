"""The sharpened control from two tables: ``python -m fgg.attribution.sharpened``. Runs no model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fgg.attribution.controls import sharpen
from fgg.errors import FggError
from fgg.jobs.command import add_arguments, command
from fgg.tables import matrix, read_table, write_table


@command
def main(argv: list[str] | None = None) -> None:
    """Read the vanilla and the gated relevance, write the vanilla one with the gated one's spread."""
    parser = argparse.ArgumentParser(prog="python -m fgg.attribution.sharpened", description=__doc__)
    parser.add_argument("--vanilla", type=Path, required=True, help="attributions of transmm")
    parser.add_argument("--gated", type=Path, required=True, help="attributions of the gated experiment")
    add_arguments(parser, settings="JSON kept in the table's metadata")
    parser.add_argument("--relevance", type=Path, required=True, help="table to write")
    arguments = parser.parse_args(argv)
    vanilla, gated = read_table(arguments.vanilla), read_table(arguments.gated)
    if vanilla["image_id"] != gated["image_id"]:
        raise FggError(f"{arguments.vanilla} and {arguments.gated} hold different images; run the workflow again")
    columns = {name: vanilla[name].combine_chunks() for name in ("image_id", "label", "predicted", "confidence")}
    relevance = sharpen(matrix(vanilla, "relevance"), matrix(gated, "relevance"))
    write_table(arguments.relevance, {**columns, "relevance": relevance}, arguments.settings)


if __name__ == "__main__":
    sys.exit(main())
