"""How similar are the maps after a model or an SAE was randomised? ``python -m fgg.comparison.sanity``.

A method passes if its maps change, that is, if the rank similarity is near 0 (Adebayo et al. 2018).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fgg.catalogue import SANITY
from fgg.errors import FggError
from fgg.jobs.command import command, json_object
from fgg.statistics.correlation import rank_correlation
from fgg.tables import matrix, read_table, write_csv

COLUMNS = ("dataset", "experiment", "original", "check", "n", "n_undefined", "spearman", "sd", "sem")


@command
def main(argv: list[str] | None = None) -> None:
    """Compare the maps of each sanity check with the original's."""
    parser = argparse.ArgumentParser(prog="python -m fgg.comparison.sanity", description=__doc__.split("\n")[0])
    parser.add_argument("--experiments", required=True, type=json_object, help="JSON {dataset: [[id, settings], …]}")
    parser.add_argument("--results", required=True, type=Path, help="folder with {dataset}/attributions/")
    parser.add_argument("--output", required=True, help="CSV to write")
    arguments = parser.parse_args(argv)
    rows = [
        row
        for dataset, grid in arguments.experiments.items()
        for row in similarities(arguments.results / dataset / "attributions", dataset, dict(grid))
    ]
    write_csv(arguments.output, pd.DataFrame(rows, columns=list(COLUMNS)))


def similarities(folder: Path, dataset: str, grid: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per sanity check of the grid: mean Spearman correlation over images with the relevance of the original.

    Raises:
        FggError: the two tables hold different images.
    """
    rows = []
    for name, settings in grid.items():
        check = settings.get("control")
        if check not in SANITY:
            continue
        original = name.removesuffix(f"-{SANITY[check]}")
        before, after = (read_table(folder / f"{own}.parquet") for own in (original, name))
        if before["image_id"] != after["image_id"]:
            raise FggError(f"{name!r} and {original!r} hold different images; run the workflow again")
        found = rank_correlation(matrix(before, "relevance"), matrix(after, "relevance"))
        kept = found[~np.isnan(found)]
        sd = float(kept.std(ddof=1)) if len(kept) > 1 else np.nan
        rows.append(
            {
                "dataset": dataset,
                "experiment": name,
                "original": original,
                "check": check,
                "n": len(kept),
                "n_undefined": len(found) - len(kept),
                "spearman": float(kept.mean()) if len(kept) else np.nan,
                "sd": sd,
                "sem": sd / len(kept) ** 0.5 if len(kept) else np.nan,
            }
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
