"""The headline in words, from the named comparisons: ``python -m fgg.report.headline``.

Prints Markdown, or puts it between the markers of a file such as README.md.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from fgg.errors import FggError
from fgg.faithfulness.registry import Metric
from fgg.jobs.command import command
from fgg.report.experiment_names import PARTNER_TITLES
from fgg.report.metrics_shown import metrics_in
from fgg.statistics.paired import ALPHA, FEWEST
from fgg.tables import atomic, read_csv

BEGIN, END = "<!-- results: begin (made by fgg.report.headline) -->", "<!-- results: end -->"
FEW = 30  # images, below which the smallest difference that can be shown is told
CONTROLS = ("shuffled", "permuted", "sharpened")


@command
def main(argv: list[str] | None = None) -> None:
    """Read hypotheses.csv, print or insert the text."""
    parser = argparse.ArgumentParser(prog="python -m fgg.report.headline", description=__doc__.split("\n")[0])
    parser.add_argument("--hypotheses", required=True, help="results/hypotheses.csv")
    parser.add_argument("--insert", type=Path, help="file with the markers between which the text goes")
    arguments = parser.parse_args(argv)
    frame = read_csv(arguments.hypotheses, texts=("layers",))
    text = "\n".join(words(frame))
    if arguments.insert is None:
        print(text)
        return
    before = arguments.insert.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    if not pattern.search(before):
        raise FggError(f"{arguments.insert} lacks the markers {BEGIN} and {END}")
    with atomic(arguments.insert) as temporary:
        temporary.write_text(pattern.sub(lambda _: f"{BEGIN}\n{text}\n{END}", before), encoding="utf-8")


def words(hypotheses: pd.DataFrame, known: Mapping[str, Metric] | None = None) -> Iterator[str]:
    """Lines of Markdown: per dataset a sentence for each metric, and a table of all named comparisons."""
    from scipy import stats

    for dataset, frame in hypotheses.groupby("dataset", sort=False):
        metrics = metrics_in(frame, known)
        gates = list(dict.fromkeys(frame["experiment"]))
        tried = frame["n_experiments_tried"].iloc[0]
        yield (
            f"On `{dataset}` ({frame['n'].max()} images, {frame['protocol'].iloc[0]} protocol, {tried} experiments "
            f"beside the baseline, {len(gates)} of them combined gates):"
        )
        yield ""
        for metric, rows in frame.groupby("metric", sort=False):
            yield f"- {metrics[metric].title}: {sentence(rows)}"
        yield ""
        yield "| gated layers | against | " + " | ".join(m.title for m in metrics.values()) + " |"
        yield "|---|---|" + "---|" * len(metrics)
        for (_, against), rows in frame.groupby(["experiment", "against"], sort=False):
            first = rows.iloc[0]
            cells = [cell(rows[rows["metric"] == metric]) for metric in metrics]
            where = first["layers"] + _strength(first, frame)
            yield f"| {where} | {PARTNER_TITLES.get(against, against)} | " + " | ".join(cells) + " |"
        yield ""
        yield "Change in %, positive = better; *p* from the paired t-test, Holm over these rows, by metric."
        most = int(frame["n"].max())
        if FEWEST <= most < FEW:
            needed = stats.t.ppf(1 - ALPHA / 2, most - 1) / most**0.5
            yield ""
            yield (
                f"With {most} images hardly anything can be shown: before Holm's adjustment, a mean difference is "
                f"significant from {needed:.2f} standard deviations of the images' differences on."
            )


def sentence(rows: pd.DataFrame) -> str:
    """What one metric says of the combined gates: against TransMM, and against the controls."""
    verdicts = rows.pivot(index="experiment", columns="against", values="verdict")
    if "transmm" not in verdicts:
        return "TransMM is not in the grid."
    better = verdicts[verdicts["transmm"] == "better"]
    worse = int((verdicts["transmm"] == "worse").sum())
    untested = verdicts.loc[verdicts["transmm"].str.startswith("not testable"), "transmm"]
    if len(untested) == len(verdicts):
        return f"no combined gate could be tested against TransMM ({untested.iloc[0].removeprefix('not testable: ')})."
    text = f"{len(better)} of {len(verdicts)} combined gates are better than TransMM, {worse} worse"
    text += f", {len(untested)} not testable" if len(untested) else ""
    controls = [name for name in CONTROLS if name in verdicts]
    if len(better) and controls:
        beaten = (better[controls] == "better").all(axis=1)
        names = ", ".join(PARTNER_TITLES[name] for name in controls)
        text += f"; {int(beaten.sum())} of the better ones also beat every control ({names})"
    return text + "."


def cell(rows: pd.DataFrame) -> str:
    """A verdict with its numbers."""
    if rows.empty:
        return ""
    row = rows.iloc[0]
    if pd.isna(row["p_adjusted"]):
        return row["verdict"]
    p = "*p* < 0.001" if row["p_adjusted"] < 0.001 else f"*p* = {row['p_adjusted']:.3f}"
    change = "" if pd.isna(row["improvement_pct"]) else f"{round(row['improvement_pct'], 1) + 0.0:+.1f} %, "
    text = f"{row['verdict']} ({change}{p})"
    return f"**{text}**" if row["verdict"] in ("better", "worse") else text


def _strength(row: pd.Series, frame: pd.DataFrame) -> str:
    if frame["clamp_max"].nunique() == 1 and frame["alpha"].nunique() == 1:
        return ""
    return f", clamp {row['clamp_max']:g}, alpha {row['alpha']:g}"


if __name__ == "__main__":
    sys.exit(main())
