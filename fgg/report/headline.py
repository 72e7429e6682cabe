"""The headline in words, from the named comparisons: ``python -m fgg.report.headline``.

Prints Markdown, or puts it between the markers of a file such as README.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from fgg.comparison.pooled import EVERY
from fgg.comparison.strata import ALL, MEASURABLE
from fgg.comparison.verdicts import BETTER, IDENTICAL, UNGATED, UNTESTABLE, WORSE, is_better
from fgg.errors import FggError
from fgg.faithfulness.measures import Measure
from fgg.jobs.command import command
from fgg.report.dictionary_words import dictionary_words
from fgg.report.insertion import insert
from fgg.report.metrics_shown import measures_in, rows_of
from fgg.report.verdict_tables import pooled_table, verdict_table
from fgg.tables import read_csv

BEGIN, END = "<!-- results: begin (made by fgg.report.headline) -->", "<!-- results: end -->"
CONTROLS = ("shuffled", "permuted", "sharpened", "values", "order", "power", "no_sae")
GATE_COLUMNS = ("method", "layers", "clamp_max", "alpha")
TEXTS = ("dataset", "seed", "seeds", "layers", "fill")


@command
def main(argv: list[str] | None = None) -> None:
    """Read hypotheses.csv, and pooled.csv if there are several runs; print or insert the text."""
    parser = argparse.ArgumentParser(prog="python -m fgg.report.headline", description=__doc__.split("\n")[0])
    parser.add_argument("--hypotheses", required=True, help="results/hypotheses.csv")
    parser.add_argument("--pooled", help="results/pooled.csv, of several seeds or datasets")
    parser.add_argument("--brief", action="store_true", help="only the comparisons with TransMM; needs --pooled")
    parser.add_argument("--insert", type=Path, help="file with the markers between which the text goes")
    arguments = parser.parse_args(argv)
    hypotheses = read_csv(arguments.hypotheses, texts=TEXTS)
    pooled = read_csv(arguments.pooled, texts=TEXTS) if arguments.pooled else None
    if arguments.brief and pooled is None:
        raise FggError("--brief needs --pooled: it shows what several runs say together")
    text = "\n".join(words(hypotheses, pooled=pooled, brief=arguments.brief))
    if arguments.insert is None:
        print(text)
        return
    insert(text, arguments.insert, BEGIN, END)


def words(
    hypotheses: pd.DataFrame,
    known: Mapping[str, Measure] | None = None,
    pooled: pd.DataFrame | None = None,
    brief: bool = False,
) -> Iterator[str]:
    """Lines of Markdown: per dataset, a sentence for each metric and a table of all named comparisons.

    Args:
        hypotheses: the table of hypotheses of one run or several.
        known: the measures by name, including those of metrics of other packages.
        pooled: the pooled table, if there are several runs.
    """
    for dataset, runs in hypotheses.groupby("dataset", sort=False):
        seeds = list(dict.fromkeys(runs["seed"]))
        frame = runs if pooled is None or len(seeds) < 2 else as_one(pooled, runs, str(dataset))
        yield from _dataset(str(dataset), runs, frame, seeds, measures_in(runs, known), brief)
    if pooled is not None and hypotheses["dataset"].nunique() > 1:
        every = hypotheses.assign(dataset=EVERY)
        frame = as_one(pooled, every, EVERY)
        yield from (
            "",
            "All datasets together (random effects over the runs; nothing where the datasets disagree):",
            "",
        )
        yield from _sentences(frame, measures_in(hypotheses, known))


def as_one(pooled: pd.DataFrame, runs: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """The pooled rows of the hypotheses, with the columns that this text reads."""
    own = pooled[(pooled["dataset"] == dataset) & (pooled["against"] != "baseline")].fillna({"fill": ""})
    gates = runs.drop_duplicates("experiment").set_index("experiment").reindex(columns=GATE_COLUMNS)
    return own.join(gates, on="experiment")


def _dataset(
    dataset: str,
    runs: pd.DataFrame,
    frame: pd.DataFrame,
    seeds: Sequence[str],
    measures: Mapping[str, Measure],
    brief: bool,
) -> Iterator[str]:
    first, gates = runs.iloc[0], list(dict.fromkeys(runs["experiment"]))
    per_run = runs[runs["stratum"] == ALL].groupby("seed", sort=False)["n_images"].max()
    images = f"{per_run.iloc[0]} images" + (f" in each of {len(seeds)} runs with other seeds" if len(seeds) > 1 else "")
    yield (
        f"On `{dataset}` ({images}, {first['protocol']} protocol; {first['n_experiments_tried']} experiments beside the "
        f"baseline, {len(gates)} of them combined gates):"
    )
    yield ""
    yield from _measurable(runs, seeds)
    yield from _sentences(frame, measures)
    yield from _other_methods(frame, measures)
    yield from dictionary_words(frame, measures)
    yield ""
    yield from _power(runs)
    yield from _warnings(runs)
    if brief and len(seeds) > 1:
        yield ""
        yield from pooled_table(frame, measures)
        yield ""
        return
    fills = list(dict.fromkeys(measure.fill for measure in measures.values()))
    for fill in fills:
        own = {name: measure for name, measure in measures.items() if measure.fill == fill}
        yield ""
        if fill and len(fills) > 1:
            yield f"With the fill {fill.replace('_', ' ')}, on measurable images (in brackets: on all, if different):"
            yield ""
        yield from verdict_table(frame, own)
    yield ""
    pooled_words = "random effects over the seeds, Hartung and Knapp's test" if len(seeds) > 1 else "paired t-test"
    yield (
        f"Change in %, positive = better; *p* from the {pooled_words}, after Holm over these comparisons and metrics "
        "(summary.csv: over all experiments and metrics, so that a borderline verdict can differ there). *In values*: the metric rewards the spread of "
        "the map's values; the order of the patches by itself is not shown to be better."
    )


def _measurable(runs: pd.DataFrame, seeds: Sequence[str]) -> Iterator[str]:
    """How many images are measurable with each fill."""
    whole = runs[runs["stratum"] == ALL].drop_duplicates(["seed", "fill"])
    parts = []
    for fill, own in whole.groupby("fill", sort=False, dropna=False):
        if fill and not pd.isna(fill):
            parts.append(
                f"{own['n_measurable'].sum()} of {own['n_images'].sum()} with the fill {str(fill).replace('_', ' ')}"
            )
    if parts:
        yield (
            f"Measurable images: {'; '.join(parts)}{' (all runs together)' if len(seeds) > 1 else ''}. The others keep their "
            "probability when everything is filled, so nothing can be measured there. Verdicts are on the measurable images."
        )
        yield ""


def _sentences(frame: pd.DataFrame, measures: Mapping[str, Measure]) -> Iterator[str]:
    """A sentence per metric, with all its fills."""
    of_metric: dict[str, list[Measure]] = {}
    for measure in measures.values():
        of_metric.setdefault(measure.metric.name, []).append(measure)
    shown = frame[frame["stratum"] == MEASURABLE]
    for several in of_metric.values():
        parts, agreed = [], []
        for measure in several:
            rows = rows_of(shown, measure)
            fill = f"fill {measure.fill.replace('_', ' ')}: " if len(several) > 1 else ""
            parts.append(fill + sentence(rows))
            agreed.append(_against_transmm(rows))
        text = f"- {several[0].metric.title}: {'; '.join(parts)}."
        tested = any(not verdict.startswith(UNTESTABLE) for own in agreed for verdict in own)
        if tested and len(several) > 1:
            signs = [own.map(_sign).to_dict() for own in agreed]
            same = all(each == signs[0] for each in signs)
            text += (
                " The fills agree." if same else " The fills do not agree, so there is no verdict that holds for both."
            )
        yield text


def _against_transmm(rows: pd.DataFrame) -> pd.Series:
    """The verdicts against TransMM by gate."""
    return rows[rows["against"] == "transmm"].set_index("experiment")["verdict"]


def _sign(verdict: str) -> str:
    """A verdict without qualification; empty if no difference is shown."""
    return next((word for word in (BETTER, WORSE) if verdict.startswith(word)), "")


def sentence(rows: pd.DataFrame) -> str:
    """The results of one measure for the combined gates, against TransMM and the controls; without a full stop."""
    own = _against_transmm(rows)
    if own.empty:
        return "TransMM is not in the grid"
    untested = own[own.str.startswith(UNTESTABLE)]
    if len(untested) == len(own):
        return f"no combined gate could be tested against TransMM ({untested.iloc[0].removeprefix(f'{UNTESTABLE}: ')})"
    better = [name for name, text in own.items() if is_better(text)]
    qualified = int((own.str.startswith(BETTER) & ~own.map(is_better)).sum())
    worse = int(own.str.startswith(WORSE).sum())
    text = f"{len(better)} of {len(own)} combined gates better than TransMM"
    text += f", {qualified} better in values only" if qualified else ""
    text += f", {worse} worse"
    text += f", {len(untested)} not testable" if len(untested) else ""
    if better:
        beaten = [name for name in better if beats_controls(rows[rows["experiment"] == name])]
        text += f"; {len(beaten)} of the better ones beat every control that applies"
    return text


def _other_methods(frame: pd.DataFrame, measures: Mapping[str, Measure]) -> Iterator[str]:
    """How the gate does on methods other than TransMM, against the same method without it, on measurable images."""
    rows = frame[(frame["against"] == UNGATED) & (frame["stratum"] == MEASURABLE)]
    if rows.empty:
        return
    parts = []
    for measure in measures.values():
        verdicts = rows_of(rows, measure)["verdict"]
        counts = [int(verdicts.str.startswith(word).sum()) for word in (BETTER, WORSE)]
        parts.append(f"{measure.title} {counts[0]} better, {counts[1]} worse")
    yield f"- the gate on other methods ({rows['experiment'].nunique()} gates, each against its method without it, those in values included): {'; '.join(parts)}."


def beats_controls(rows: pd.DataFrame) -> bool:
    """Whether a gate is better than each control that can differ from it.

    A control with the same scores as the gate does not count, such as one with the same order if the metric reads only
    the order.
    """
    controls = rows[rows["against"].isin(CONTROLS) & (rows["verdict"] != IDENTICAL)]
    return bool(len(controls)) and bool(controls["verdict"].str.startswith(BETTER).all())


def _power(runs: pd.DataFrame) -> Iterator[str]:
    """The effects that this number of images can detect."""
    own = runs[(runs["stratum"] == MEASURABLE) & runs["smallest_detectable"].notna() & (runs["n"] > 0)]
    if own.empty:
        return
    parts = []
    for fill, rows in own.groupby("fill", sort=False, dropna=False):
        with_fill = f" (fill {str(fill).replace('_', ' ')})" if own["fill"].nunique() > 1 else ""
        parts.append(f"d_z = {rows['smallest_detectable'].median():.2f}{with_fill}")
    yield (
        f'So many images {"of a run " if runs["seed"].nunique() > 1 else ""}show a difference of {", ".join(parts)} with a power of 80 %, before any adjustment; "no difference '
        'shown" says nothing of smaller ones.'
    )


def _warnings(runs: pd.DataFrame) -> Iterator[str]:
    if found := warnings(runs):
        yield ""
        yield f"**Warning:** {'; '.join(found)}. Read the verdicts with this in mind."


def warnings(runs: pd.DataFrame) -> list[str]:
    """Warnings about the model and the SAEs: of several runs how many have each kind, and an example."""
    kinds: dict[str, dict[str, str]] = {}
    for row in runs[["seed", "note"]].dropna().drop_duplicates().to_dict("records"):
        for part in row["note"].split("; "):
            if part.startswith("weak "):
                kinds.setdefault(part.split(":")[0], {}).setdefault(row["seed"], part)
    several = runs["seed"].nunique()
    return [
        next(iter(own.values())) if several < 2 else f"{kind} in {len(own)} of {several} runs, such as{_after(own)}"
        for kind, own in kinds.items()
    ]


def _after(parts: Mapping[str, str]) -> str:
    """The first warning without its kind."""
    return next(iter(parts.values())).split(":", 1)[-1]


if __name__ == "__main__":
    sys.exit(main())
