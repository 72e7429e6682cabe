"""The table to read, ``results/summary.csv``: the rows of the comparison over all images, and the main columns.

python -m fgg.comparison.summary --comparison results/comparison.parquet --output results/summary.csv
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping

import pandas as pd

from fgg.faithfulness.registry import Metric
from fgg.jobs.command import command
from fgg.tables import read_table, write_csv

SETTINGS = ("method", "layers", "construction", "clamp_max", "alpha", "shuffle_decoder", "control")
STATISTICS = ("difference", "improvement_pct", "ci_low", "ci_high", "effect_size", "p_value", "p_adjusted")
COLUMNS = (
    *("dataset", "experiment", *SETTINGS, "metric", "higher_is_better", "n", "mean", "sem", "baseline_mean"),
    *(*STATISTICS, "significant", "protocol", "precision"),
    *("n_undefined", "share_improved", "wilcoxon_p", "n_experiments_tried", "n_skipped", "note"),
)


def summary(comparison: pd.DataFrame) -> pd.DataFrame:
    """The rows of the comparison over all images, with the columns `COLUMNS`."""
    return comparison.loc[comparison["stratum"] == "all", list(COLUMNS)].reset_index(drop=True)


def readable(comparison: pd.DataFrame, metrics: Mapping[str, Mapping[str, Metric]]) -> Iterator[str]:
    """Lines of text: per dataset the means, with a word where they differ, and per metric the best experiment.

    Args:
        metrics: dataset -> name -> metric.
    """
    for dataset, frame in comparison[comparison["stratum"] == "all"].groupby("dataset", sort=False):
        first = frame.iloc[0]
        width = max(map(len, frame["experiment"]))
        yield f"{dataset}: {first['n_images']} images, baseline {first['baseline']}, protocol {first['protocol']}"
        own = metrics[str(dataset)]
        heads = [f"{metric.title} ({metric.direction})" for metric in own.values()]
        yield "  ".join(["mean".ljust(width), *heads])
        for name, rows in frame.groupby("experiment", sort=False):
            cells = [_cell(row).ljust(len(head)) for head, (_, row) in zip(heads, rows.iterrows(), strict=True)]
            yield "  ".join([name.ljust(width), *cells]).rstrip()
        yield "better, worse: than the baseline, p < 0.05 after Holm"
        for metric, rows in frame.groupby("metric", sort=False):
            tested = rows.dropna(subset=["improvement"])
            if len(tested):
                best = tested.loc[tested["improvement"].idxmax()]
                yield (
                    f"best {own[str(metric)].title} of {best['n_experiments_tried']} experiments tried: "
                    f"{best['experiment']} ({best['difference']:+.4f}, {best['improvement_pct']:+.1f} %, "
                    f"adjusted p {best['p_adjusted']:.2g})"
                )
        yield ""


def _cell(row: pd.Series) -> str:
    word = ("better" if row["improvement"] > 0 else "worse") if row["significant"] else ""
    return f"{row['mean']:8.4f} {word}"


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
