"""The statistics of the research code, for comparison with published numbers: ``python -m fgg.comparison.thesis``.

They are written to ``results/thesis_statistics.csv`` under ``protocol: thesis``. See `fgg.statistics.thesis` for how
they differ from the statistics of the comparison.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from fgg.comparison.compared import Compared, compared
from fgg.jobs.command import command, json_object
from fgg.statistics.paired import Row, describe
from fgg.statistics.thesis import thesis_composite, thesis_paired, thesis_welch
from fgg.tables import write_csv

COMPOSITE = ("saco", "faithfulness_correlation", "pixel_flipping")


@command
def main(argv: list[str] | None = None) -> None:
    """Read the scores and write the table."""
    parser = argparse.ArgumentParser(prog="python -m fgg.comparison.thesis", description=__doc__.split("\n")[0])
    parser.add_argument("--settings", required=True, type=json_object, help="JSON: those of the comparison")
    parser.add_argument("--results", required=True, type=Path, help="folder with {dataset}/faithfulness/")
    parser.add_argument("--output", required=True, help="CSV to write")
    arguments = parser.parse_args(argv)
    settings = dict(arguments.settings)
    settings["experiments"] = {name: dict(grid) for name, grid in settings["experiments"].items()}
    rows = [row for name in settings["experiments"] for row in statistics(compared(arguments.results, name, settings))]
    write_csv(arguments.output, pd.DataFrame(rows))


def statistics(own: Compared) -> Iterator[Row]:
    """A row per experiment and measure, on all images.

    ``composite_percent`` is the same in all rows of an experiment: the mean of the percentages of SaCo, Faithfulness
    Correlation and Pixel Flipping with the first fill. It is NaN if one of the three is not computed.
    """
    baseline = own.settings["baseline"]
    vanilla = own.scores[baseline]
    for name, frame in own.scores.items():
        if name == baseline:
            continue
        found = {}
        for measure in own.measures.values():
            pairs = {
                key: scores[measure.name].dropna().to_dict() for key, scores in (("own", frame), ("vanilla", vanilla))
            }
            row = thesis_paired(pairs["own"], pairs["vanilla"], measure.metric.sign)
            described = [describe(scores[measure.name]) for scores in (frame, vanilla)]
            facts = [(each["mean"], each["sd"], each["n"]) for each in described]
            welch = thesis_welch(facts[0], facts[1], measure.metric.sign)
            row |= {f"welch_{key}": welch[key] for key in ("cohens_d", "p_value")}
            found[measure.name] = row
        three = all(metric in found for metric in COMPOSITE)
        percent = thesis_composite([found[m]["percent_improvement"] for m in COMPOSITE]) if three else np.nan
        for measure in own.measures.values():
            yield {
                **{key: own.common[key] for key in ("dataset", "seed")},
                **{"experiment": name, "metric": measure.metric.name, "fill": measure.fill},
                **found[measure.name],
                "composite_percent": percent,
            }


if __name__ == "__main__":
    sys.exit(main())
