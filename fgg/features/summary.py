"""The table of what deleted features do to the logit: ``python -m fgg.features.summary``.

Reads ``{results}/{instance}/feature_deletion/layer_{l}.parquet`` and ``…/alone/layer_{l}.parquet``. Writes a row per dataset,
seed, layer, group, k and comparison, and a row per dataset, seed and layer for features that are deleted alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fgg.features.groups import GROUPS, LEAST, MATCHED, MOST, NEGATIVE, POSITIVE, SCORE
from fgg.jobs.command import command, json_object
from fgg.statistics.bootstrap import bootstrap_interval
from fgg.statistics.correlation import rank_correlation
from fgg.statistics.paired import FEWEST, holm, paired
from fgg.tables import read_table, write_csv

ALONE = "alone"
LEVEL = 0.05  # of the adjusted p-value
SIZE, CHANGE = "absolute_change", "logit_change"  # absolute and signed change of the logit, per image
# What is compared: group, the group that it is held against, the quantity, and which sign of the difference is wanted.
COMPARISONS = (
    (SCORE, MATCHED[SCORE], SIZE, 1),
    (SCORE, MOST, SIZE, 1),
    (SCORE, LEAST, SIZE, 1),
    (POSITIVE, MATCHED[POSITIVE], CHANGE, -1),
    (POSITIVE, MOST, CHANGE, -1),
    (NEGATIVE, MATCHED[NEGATIVE], CHANGE, 1),
)
LARGER, SMALLER, UNCLEAR, UNTESTED = "larger effect", "smaller effect", "no difference shown", "not testable"
MEANS = ("probability_change", "expected", "activation", "removed")
PAIRED = ("difference", "ci_low", "ci_high", "effect_size", "n_pairs", "n_left_out", "wilcoxon_p", "reason")
COLUMNS = (
    *("dataset", "seed", "layer", "group", "k", "n"),
    *(name for quantity in (SIZE, CHANGE) for name in (quantity, f"{quantity}_low", f"{quantity}_high")),
    *MEANS,
    *("against", "quantity", *PAIRED[:-1], "p_adjusted", "verdict", "reason"),
    *("rank_correlation", "rank_low", "rank_high"),
)


@command
def main(argv: list[str] | None = None) -> None:
    """Read the tables of all layers and write the summary."""
    parser = argparse.ArgumentParser(prog="python -m fgg.features.summary", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--settings",
        required=True,
        type=json_object,
        help="JSON: seed, and instances [[folder, {dataset, seed, layers}], …]",
    )
    parser.add_argument("--results", required=True, type=Path, help="folder with {instance}/feature_deletion/")
    parser.add_argument("--output", required=True, type=Path, help="results/feature_deletion.csv")
    arguments = parser.parse_args(argv)
    write_csv(arguments.output, summary(arguments.results, arguments.settings))


def summary(results: Path, settings: Mapping[str, Any]) -> pd.DataFrame:
    """The table, with the columns `COLUMNS`; Holm's adjustment runs over all its tests.

    Args:
        settings: ``seed``, which draws the resamples, and ``instances``: pairs of a folder and its ``dataset``, ``seed`` and
            ``layers``.

    Raises:
        FggError: a table is missing or damaged.
    """
    rows: list[dict[str, Any]] = []
    for name, own in settings["instances"]:
        place = results / name / "feature_deletion"
        for layer in own["layers"]:
            about = {"dataset": own["dataset"], "seed": own["seed"], "layer": layer}
            table = read_table(place / f"layer_{layer}.parquet").to_pandas()
            alone = read_table(place / ALONE / f"layer_{layer}.parquet").to_pandas()
            rows += [about | row for row in layer_rows(table, settings["seed"])]
            rows.append(about | alone_row(alone, settings["seed"]))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame["p_adjusted"] = holm(frame["wilcoxon_p"].to_numpy(dtype=np.float64))
    frame["verdict"] = [_verdict(row) for row in frame.to_dict("records")]
    return frame.astype(dict.fromkeys(("layer", "k", "n", "n_pairs", "n_left_out"), "Int64"))


def layer_rows(table: pd.DataFrame, seed: int) -> Iterator[dict[str, Any]]:
    """The rows of one layer: means with 95 % intervals, and paired comparisons on the same images."""
    values = {
        quantity: table.pivot(index="image_id", columns=["group", "k"], values=quantity) for quantity in (SIZE, CHANGE)
    }
    for group in GROUPS:
        for k in sorted(table.loc[table["group"] == group, "k"].unique()):
            own = table[(table["group"] == group) & (table["k"] == k)]
            row: dict[str, Any] = {"group": group, "k": int(k), "n": len(own)}
            for quantity in (SIZE, CHANGE):
                row |= _mean(quantity, own[quantity].to_numpy(), seed)
            row |= {name: float(own[name].mean()) for name in MEANS}
            compared = [each for each in COMPARISONS if each[0] == group and (each[1], k) in values[SIZE]]
            for _, against, quantity, sign in compared:
                first, second = (values[quantity][each, k].to_numpy() for each in (group, against))
                test = paired(first, second, sign, seed)
                about = {"against": against, "quantity": quantity}
                yield row | about | {name: test[name] for name in PAIRED}
            if not compared:
                yield row


def alone_row(table: pd.DataFrame, seed: int) -> dict[str, Any]:
    """How well the scores rank the effects of single features: mean rank correlation over images, with its interval.

    Spearman's correlation of the expected and the real change, over the features of an image that were deleted alone.
    Images with fewer than 3 such features, or without any spread, are left out.
    """
    found = []
    for _, own in table.groupby("image_id", sort=True):
        if len(own) >= FEWEST:
            two = (own[name].to_numpy(dtype=np.float64)[None] for name in ("expected", "logit_change"))
            found.append(float(rank_correlation(*two)[0]))
    known = np.array(found, dtype=np.float64)
    known = known[~np.isnan(known)]
    means = _mean("rank", known, seed)
    numbers = {"rank_correlation": means["rank"], "rank_low": means["rank_low"], "rank_high": means["rank_high"]}
    return {"group": ALONE, "k": 1, "n": len(known), **numbers}


def _mean(name: str, values: np.ndarray, seed: int) -> dict[str, float]:
    """Mean and 95 % BCa bootstrap interval of values (n,); NaN without values, and no interval for fewer than 3."""
    mean = float(values.mean()) if len(values) else float("nan")
    low, high = bootstrap_interval(values, seed) if len(values) >= FEWEST else (float("nan"), float("nan"))
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _verdict(row: Mapping[str, Any]) -> str:
    """The result of a comparison in words: by the adjusted p-value and the interval together; empty for rows without one."""
    if not isinstance(row["against"], str):
        return ""
    if np.isnan(row["p_adjusted"]):
        return UNTESTED
    outside = row["ci_low"] > 0 or row["ci_high"] < 0  # a rank test may be significant without a shift of the mean
    if row["p_adjusted"] >= LEVEL or not outside:
        return UNCLEAR
    return LARGER if row["effect_size"] > 0 else SMALLER


if __name__ == "__main__":
    sys.exit(main())
