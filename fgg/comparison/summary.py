"""The table to read, ``results/summary.csv``: the main rows and columns of the comparison.

python -m fgg.comparison.summary --comparison results/comparison.parquet --output results/summary.csv
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from fgg.comparison.compared import measures_of
from fgg.comparison.strata import MEASURABLE, VERDICTS
from fgg.jobs.command import command
from fgg.tables import read_table, write_csv

SETTINGS = ("method", "layers", "construction", "clamp_max", "alpha", "shuffle_decoder", "control")
STATISTICS = ("difference", "improvement_pct", "ci_low", "ci_high", "effect_size", "p_value", "p_adjusted")
COLUMNS = (
    *("dataset", "experiment", *SETTINGS, "metric", "higher_is_better", "n", "mean", "sem", "baseline_mean"),
    *(*STATISTICS, "significant", "protocol", "precision"),
    *("n_undefined", "share_improved", "wilcoxon_p", "n_experiments_tried", "n_skipped", "note"),
    *(
        "fill",
        "stratum",
        "seed",
        "n_images",
        "n_measurable",
        "smallest_detectable",
        "median",
        "minimum",
        "maximum",
        "verdict",
        *("role", "forward_passes", "backward_passes", "completeness_residual"),
    ),
)


def summary(comparison: pd.DataFrame) -> pd.DataFrame:
    """The rows of the comparison over the measurable images and over all images, with the columns `COLUMNS`."""
    return comparison.loc[comparison["stratum"].isin(VERDICTS), list(COLUMNS)].reset_index(drop=True)


def readable(comparison: pd.DataFrame, settings: Mapping[str, Any]) -> Iterator[str]:
    """Lines of text: per dataset and seed, the means on measurable images, with the verdict if they differ.

    Args:
        settings: settings of the comparison.
    """
    for instance in settings.get("runs", settings["experiments"]):
        about = settings.get("instances", {}).get(instance, {"dataset": instance, "seed": settings["seed"]})
        own = (comparison["dataset"] == about["dataset"]) & (comparison["seed"] == str(about["seed"]))
        frame = comparison[own & (comparison["stratum"] == MEASURABLE)]
        first, width = frame.iloc[0], max(map(len, frame["experiment"]))
        n_images = comparison.loc[own & (comparison["stratum"] == "all"), "n_images"].max()
        yield f"{instance}: {n_images} images, baseline {first['baseline']}, protocol {first['protocol']}"
        for measure in measures_of(settings, instance).values():
            rows = frame[(frame["metric"] == measure.metric.name) & (frame["fill"] == measure.fill)]
            yield ""
            yield f"{measure.title} ({measure.metric.direction}), {rows.iloc[0]['n_images']} measurable images"
            for _, row in rows.iterrows():
                yield f"  {row['experiment'].ljust(width)} {row['mean']:9.4f}  {_word(row)}".rstrip()
        yield ""
    yield "better, worse: than the baseline, p < 0.05 after Holm"


def _word(row: pd.Series) -> str:
    return row["verdict"] if row["significant"] else ""


@command
def main(argv: list[str] | None = None) -> None:
    """Read the comparison and write the summary."""
    parser = argparse.ArgumentParser(prog="python -m fgg.comparison.summary", description=__doc__.split("\n")[0])
    parser.add_argument("--comparison", required=True, help="results/comparison.parquet")
    parser.add_argument("--output", required=True, help="results/summary.csv")
    arguments = parser.parse_args(argv)
    write_csv(arguments.output, summary(read_table(arguments.comparison).to_pandas()))


if __name__ == "__main__":
    sys.exit(main())
