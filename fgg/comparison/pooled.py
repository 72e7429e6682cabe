"""The comparison pooled over seeds and over datasets: ``results/pooled.csv``.

python -m fgg.comparison.pooled --comparison results/comparison.parquet --hypotheses results/hypotheses.csv \
    --output results/pooled.csv

A run is a dataset with its seeds. Each run gives a difference and the variance of its error; these are pooled by random
effects (`fgg.statistics.pooled`). Datasets are pooled in the same way, except where they disagree.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from fgg.comparison.strata import VERDICTS
from fgg.comparison.verdicts import BETTER, UNSHOWN, WORSE
from fgg.jobs.command import command
from fgg.statistics.paired import Row, holm
from fgg.statistics.pooled import pool
from fgg.statistics.power import ALPHA
from fgg.tables import read_csv, read_settings, read_table, write_csv

EVERY = "(all)"  # value of the column dataset in rows that pool several datasets
DISAGREE = "the datasets disagree"
ONE_RUN = "one run only"
KEYS = ("experiment", "against", "partner", "metric", "fill", "higher_is_better", "stratum")
COLUMNS = (
    *(
        "dataset",
        *KEYS,
        "n_runs",
        "seeds",
        "n_images",
        "mean",
        "ci_low",
        "ci_high",
        "p_value",
        "p_adjusted",
        "significant",
    ),
    *("verdict", "improvement_pct", "prediction_low", "prediction_high", "tau", "share_between", "smallest", "largest"),
    *("n_better", "n_worse", "own_mean", "partner_mean", "order_mean", "order_p_value", "notes"),
)


@command
def main(argv: list[str] | None = None) -> None:
    """Read the tables of single runs and write the pooled one."""
    parser = argparse.ArgumentParser(prog="python -m fgg.comparison.pooled", description=__doc__.split("\n")[0])
    parser.add_argument("--comparison", required=True, type=Path, help="results/comparison.parquet")
    parser.add_argument("--hypotheses", required=True, type=Path, help="results/hypotheses.csv")
    parser.add_argument("--output", required=True, type=Path, help="CSV to write")
    arguments = parser.parse_args(argv)
    frame = read_table(arguments.comparison).to_pandas()
    hypotheses = read_csv(arguments.hypotheses, texts=("layers", "dataset", "seed", "fill"))
    family = read_settings(arguments.comparison).get("family", "all")
    write_csv(arguments.output, pooled(frame, hypotheses, family))


def pooled(comparison: pd.DataFrame, hypotheses: pd.DataFrame, family: str = "all") -> pd.DataFrame:
    """A row per dataset, experiment, partner, metric, fill and stratum.

    The partner of every experiment is the baseline; combined gates also have rows for their controls. Improvements are
    in the metric's unit; positive is better. If there are several datasets, rows with the dataset `EVERY` pool them.
    """
    runs = pd.concat([_of_baseline(comparison), _of_partners(hypotheses)], ignore_index=True)
    runs = runs[runs["stratum"].isin(VERDICTS)].fillna({"fill": ""})
    rows = [
        row
        for key, own in runs.groupby(list(KEYS), sort=False, dropna=False)
        for row in _rows(dict(zip(KEYS, key, strict=True)), own)
    ]
    _adjust(rows, family)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _of_baseline(comparison: pd.DataFrame) -> pd.DataFrame:
    """The rows of the comparison in the form of runs."""
    frame = comparison[comparison["experiment"] != comparison["baseline"]]
    return frame.assign(against="baseline", partner=frame["baseline"], partner_mean=frame["baseline_mean"])


def _of_partners(hypotheses: pd.DataFrame) -> pd.DataFrame:
    """The rows of the hypotheses in the form of runs."""
    return hypotheses


def _rows(key: Row, runs: pd.DataFrame) -> Iterator[Row]:
    """A row per dataset, and one of all datasets together if there are several."""
    found = []
    for dataset, own in runs.groupby("dataset", sort=False):
        found.append({"dataset": dataset, **key, **_pool(own)})
    yield from found
    if len(found) < 2:
        return
    signs = {np.sign(row["mean"]) for row in found if row["p_value"] < ALPHA}
    together = {"dataset": EVERY, **key, **_pool(runs)}
    if len(signs) > 1:
        hidden = ("mean", "ci_low", "ci_high", "p_value", "prediction_low", "prediction_high", "improvement_pct")
        together |= dict.fromkeys(hidden, np.nan) | {"reason": DISAGREE}
    yield together


def _pool(runs: pd.DataFrame) -> Row:
    sign = np.where(runs["higher_is_better"], 1.0, -1.0)
    row = pool(sign * runs["difference"].to_numpy(np.float64), runs["difference_se"].to_numpy(np.float64) ** 2)
    order = pool(sign * runs["order_difference"].to_numpy(np.float64), runs["order_se"].to_numpy(np.float64) ** 2)
    reference = float(runs["partner_mean"].mean())
    return row | {
        "seeds": "; ".join(dict.fromkeys(runs["seed"].astype(str))),
        "n_images": int(runs["n"].sum()),
        "improvement_pct": 100 * row["mean"] / abs(reference) if reference else np.nan,
        "n_better": int(runs["verdict"].str.startswith(BETTER).sum()),
        "n_worse": int(runs["verdict"].str.startswith(WORSE).sum()),
        "own_mean": float(runs["mean"].mean()),
        "partner_mean": reference,
        "order_mean": order["mean"],
        "order_p_value": order["p_value"],
        "told_apart": not runs["verdict"].str.contains("not told apart").any(),
        "has_order": bool(runs["order_difference"].notna().any()),
        "notes": "; ".join(dict.fromkeys(part for note in runs["note"].dropna() for part in note.split("; ") if part)),
        "reason": "identical scores" if (runs["verdict"] == "identical scores").all() else "",
    }


def _adjust(rows: list[Row], family: str) -> None:
    """Add p-values adjusted by Holm's method, and the verdicts.

    A family shares dataset, stratum, fill and kind of partner: a gain is claimed against TransMM, and to beat all controls, which
    are all tested, needs no adjustment. If ``family`` is ``metric``, it shares the metric too.
    """
    families: dict[tuple, list[Row]] = {}
    for row in rows:
        key = (row["dataset"], row["stratum"], row["fill"], row["against"])
        families.setdefault(key + ((row["metric"],) if family == "metric" else ()), []).append(row)
    for members in families.values():
        for row, adjusted in zip(members, holm([row["p_value"] for row in members]), strict=True):
            row["p_adjusted"] = float(adjusted)
            row["significant"] = bool(adjusted < ALPHA)
            row["verdict"] = _verdict(row)


def _verdict(row: Row) -> str:
    if row["reason"]:
        return row["reason"]
    if np.isnan(row["p_value"]):
        return ONE_RUN if row["n_runs"] < 2 else "not testable"
    if not row["significant"]:
        return UNSHOWN
    word = BETTER if row["mean"] > 0 else WORSE
    if not row["told_apart"]:
        return f"{word} (order and values not told apart)"
    same = row["order_p_value"] < ALPHA and row["order_mean"] * row["mean"] > 0
    return word if same or not row["has_order"] else f"{word} in values"


if __name__ == "__main__":
    sys.exit(main())
