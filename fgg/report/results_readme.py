"""A text about a run and its results: ``results/README.md``.

    python -m fgg.report.results_readme --comparison results/comparison.parquet --hypotheses results/hypotheses.csv \
        --decomposition results/decomposition.csv --data data --splits '{"elpv": "test"}' --output results/README.md

Nothing in it depends on the time or the machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from fgg.catalogue import CONSTRUCTIONS
from fgg.comparison.compared import measures_of
from fgg.comparison.pooled import EVERY
from fgg.comparison.quality import weak_saes
from fgg.comparison.strata import ALL, MEASURABLE
from fgg.data.preprocess_words import preprocess_words
from fgg.faithfulness.measures import Measure
from fgg.jobs.command import command, json_object
from fgg.report.answer import answers
from fgg.report.contents import figures
from fgg.report.deletion_words import deletion_words
from fgg.report.figures.sae_quality import quality
from fgg.report.headline import TEXTS, words
from fgg.report.metrics_shown import measures_in, rows_of
from fgg.report.order_and_values import order_and_values, random_check
from fgg.tables import atomic, read_csv, read_json, read_settings, read_table
from fgg.visible import markdown_plain

POOR = 0.3  # an SAE with less explained variance hardly describes the residual stream
STATUS = {
    "cancelled": "a patch's residual × gradient is analytically zero there, so a gate by gradients is rounding noise",
    "zero": "patches no longer reach the prediction, their gradient is zero, and a gate by gradients is 1",
}


class Origin(NamedTuple):
    """The records behind a dataset's results: model.json, dataset.json, and layer -> metrics.json of the SAEs."""

    model: Mapping[str, Any]
    images: Mapping[str, Any]
    saes: Mapping[int, Mapping[str, Any]]


@command
def main(argv: list[str] | None = None) -> None:
    """Read the tables and records and write the text."""
    parser = argparse.ArgumentParser(prog="python -m fgg.report.results_readme", description=__doc__.split("\n")[0])
    parser.add_argument("--comparison", required=True, help="results/comparison.parquet")
    parser.add_argument("--hypotheses", required=True, help="results/hypotheses.csv")
    parser.add_argument("--decomposition", help="results/decomposition.csv")
    parser.add_argument("--pooled", help="results/pooled.csv, if there are several runs")
    parser.add_argument("--deletion", help="results/feature_deletion.csv, if SAE features were deleted")
    parser.add_argument("--data", required=True, type=Path, help="folder with prepared/, models/ and saes/")
    parser.add_argument("--splits", required=True, type=json_object, help="JSON {dataset: explained split}")
    parser.add_argument("--output", required=True, type=Path, help="results/README.md")
    arguments = parser.parse_args(argv)
    comparison = read_table(arguments.comparison).to_pandas()
    tables = {
        name: read_csv(path, texts=TEXTS)
        for name in ("hypotheses", "decomposition", "pooled", "deletion")
        if (path := getattr(arguments, name)) is not None
    }
    settings = read_settings(arguments.comparison)
    measures = {name: measures_of(settings, name) for name in arguments.splits}
    text = "\n".join(readme(comparison, tables, arguments.data, arguments.splits, measures))
    with atomic(arguments.output) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def readme(
    comparison: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
    data: Path,
    splits: Mapping[str, str],
    measures: Mapping[str, Mapping[str, Measure]] | None = None,
) -> Iterator[str]:
    """Lines of Markdown: the headline, what was run, what is missing, where to look.

    Args:
        comparison: the table of all runs; the runs with each dataset's first seeds are described.
        tables: the table ``hypotheses``, and perhaps ``decomposition``, ``pooled`` and ``deletion``.
        data: the folder with prepared/, models/ and saes/.
        splits: dataset -> the split that is explained.
        measures: dataset -> name -> measure; None takes them from the table.
    """
    hypotheses = tables["hypotheses"]
    every = comparison[comparison["stratum"] == ALL]
    first_seed = every.groupby("dataset", sort=False)["seed"].transform("first")
    frame = every[every["seed"] == first_seed]
    if measures is None:
        measures = {str(dataset): measures_in(rows) for dataset, rows in frame.groupby("dataset", sort=False)}
    origins = {str(dataset): _origin(str(dataset), rows, data) for dataset, rows in frame.groupby("dataset")}
    yield from ("# Results", "", "## Headline", "")
    known = {name: measure for own in measures.values() for name, measure in own.items()}
    for answer in answers(hypotheses, known, tables.get("pooled")) if len(hypotheses) else ():
        name = "all datasets" if answer.dataset == EVERY else f"`{answer.dataset}`"
        yield from (f"**{answer.word}** ({name}). {' '.join(answer.sentences)}", "")
    for dataset in dict.fromkeys(frame["dataset"]):
        if not (hypotheses["dataset"] == dataset).any():
            rows = comparison[(comparison["dataset"] == dataset) & (comparison["stratum"] == MEASURABLE)]
            yield f"On `{dataset}`: the grid has no combined gate to test. {_best(rows, measures[str(dataset)])}"
            yield ""
    yield from words(hypotheses, known, tables.get("pooled"))
    yield ""
    if "decomposition" in tables:
        yield from order_and_values(tables["decomposition"], known)
    if "deletion" in tables:
        yield from deletion_words(tables["deletion"])
    yield from random_check(every)
    yield from ("## What was run", "")
    for dataset, rows in frame.groupby("dataset", sort=False):
        yield from _run(str(dataset), rows, origins[str(dataset)], splits[str(dataset)])
        yield ""
    yield from ("## What is missing or means nothing", "")
    for dataset, rows in frame.groupby("dataset", sort=False):
        own, split = origins[str(dataset)], splits[str(dataset)]
        yield from _missing(str(dataset), rows, own, split, measures[str(dataset)])
    yield from ("", "## Where to look", "")
    yield from _where(measures, frame, "deletion" in tables)


def _best(rows: pd.DataFrame, measures: Mapping[str, Measure]) -> str:
    """The experiment with the best mean by each measure on measurable images, for runs without hypotheses."""
    parts = []
    for measure in measures.values():
        own = rows_of(rows[rows["mean"].notna()], measure)
        if len(own):
            best = own.loc[(measure.metric.sign * own["mean"]).idxmax()]
            verdict = (
                "" if best["experiment"] == best["baseline"] else f", against {best['baseline']}: {best['verdict']}"
            )
            parts.append(f"by {measure.title}: `{best['experiment']}` ({best['mean']:.4f}{verdict})")
    return f"The best means on measurable images: {'; '.join(parts)}." if parts else ""


def _origin(dataset: str, rows: pd.DataFrame, data: Path) -> Origin:
    reading = rows["construction"].isin([name for name, entry in CONSTRUCTIONS.items() if entry.needs_sae])
    return Origin(
        read_json(data / "models" / dataset / "model.json"),
        read_json(data / "prepared" / dataset / "dataset.json"),
        quality(data / "saes" / dataset, sorted(_layers(rows[reading]))),
    )


def _run(dataset: str, rows: pd.DataFrame, origin: Origin, split: str) -> Iterator[str]:
    first, record = rows.iloc[0], origin.model
    classes, available = record["classes"], sum(origin.images["counts"][split].values())
    yield f"`{dataset}`:"
    yield ""
    yield (
        f"- images: {first['n_images']} of the {available} of the split {split}, source {origin.images['source']}, "
        f"{len(classes)} classes ({', '.join(map(markdown_plain, classes[:8]))}{', …' if len(classes) > 8 else ''})"
    )
    yield f"- model: {markdown_plain(record['architecture'])}, weights: {markdown_plain(_weights(record))}; {_accuracy(record, split)}"
    if record.get("preprocess"):
        yield f"- preprocessing: {preprocess_words(record['preprocess'], record.get('preprocess_from'))}"
    weak = weak_saes(rows["note"])
    for layer, own in origin.saes.items():
        yield (
            f"- SAE of layer {layer}: {own['features']} features, explained variance {_number(own['explained_variance'])}, "
            f"L0 {_number(own['l0'])}, dead features {_number(100 * own['dead_share'])} %, on {own['tokens']} held-out patches"
            + _interpretable(own)
            + (f". Chosen on these images: {markdown_plain(own['chosen'])}" if own.get("chosen") else "")
            + (f". **Warning:** {markdown_plain(weak[layer])}" if layer in weak else "")
        )
    yield (
        f"- experiments: {first['n_experiments_tried'] + 1}, compared with {first['baseline']}; protocol "
        f"{first['protocol']}, precision {first['precision']}"
        + (" (bf16 is for exploration)" if first["precision"] == "bf16" else "")
    )


def _interpretable(measured: Mapping[str, Any]) -> str:
    """How interpretable an SAE's features are, each measure with that of random ones; what was not measured is left out."""
    titles = {"morans_i": "Moran's I of the features' maps", "monosemanticity": "monosemanticity"}
    parts = [
        f"{title} {_number(measured[key])} (random {_number(measured[f'{key}_random'])})"
        for key, title in titles.items()
        if measured.get(key) is not None and measured.get(f"{key}_random") is not None
    ]
    return "".join(f"; {part}" for part in parts)


def _weights(record: Mapping[str, Any]) -> str:
    return "trained here" if record.get("weights") == "train" else str(record.get("weights", "unknown"))


def _accuracy(record: Mapping[str, Any], split: str) -> str:
    """The accuracy on a split, compared with that of simple baselines."""
    own = (record.get("accuracy") or {}).get(split)
    if not own or own.get("accuracy") is None:
        return f"accuracy on the split {split} not measured"
    text = f"accuracy on the split {split}: {100 * own['accuracy']:.1f} %"
    beside = [
        ("majority_accuracy", "the most frequent class"),
        ("logistic_regression_accuracy", "a linear model on pixels"),
    ]
    known = [f"{what} {100 * own[key]:.1f} %" for key, what in beside if own.get(key) is not None]
    return text + (f" ({', '.join(known)})" if known else "")


def _layers(rows: pd.DataFrame) -> set[int]:
    """The layers that the experiments gate."""
    return {int(layer) for layers in rows["layers"].dropna() for layer in layers.split("+") if layer}


def _missing(
    dataset: str, rows: pd.DataFrame, origin: Origin, split: str, measures: Mapping[str, Measure]
) -> Iterator[str]:
    yield from (f"- `{dataset}`, {remark}" for remark in _remarks(rows, origin, split))
    undefined = rows[rows["n_undefined"] > 0]
    for measure in measures.values():
        own = rows_of(undefined, measure)
        if own.empty:
            continue
        worst = ", ".join(f"`{row['experiment']}` {row['n_undefined']}" for _, row in own.iloc[:5].iterrows())
        more = f", and {len(own) - 5} more experiments" if len(own) > 5 else ""
        yield f"- `{dataset}`, undefined {measure.title} (images, left out pairwise): {worst}{more}"
    if undefined.empty:
        yield f"- `{dataset}`, undefined scores: none"
    untested = rows[rows["p_value"].isna() & (rows["experiment"] != rows["baseline"])]
    for reason, own in untested.groupby("reason", sort=False):
        yield f"- `{dataset}`, not testable ({markdown_plain(reason)}): {len(own)} comparisons, of {_named(own, rows)}"
    for status, why in STATUS.items():
        found = [layer["layer"] for layer in origin.model["layers"] if layer["status"] == status]
        if found:
            here = "" if _layers(rows) & set(found) else "; no experiment has a gate there"
            yield f"- `{dataset}`, degenerate layer{'s' * (len(found) > 1)} {', '.join(map(str, found))}: {why}{here}"
    for note, own in rows[rows["note"].fillna("") != ""].groupby("note", sort=False):
        yield f"- `{dataset}`, {_named(own, rows)}: {markdown_plain(note)}"


def _named(some: pd.DataFrame, rows: pd.DataFrame) -> str:
    """The experiments of some of the rows."""
    names = [f"`{name}`" for name in some["experiment"].unique()]
    if len(names) == rows["experiment"].nunique() > 1:
        return "all experiments"
    return ", ".join(names[:3]) + (f", and {len(names) - 3} more experiments" if len(names) > 3 else "")


def _remarks(rows: pd.DataFrame, origin: Origin, split: str) -> Iterator[str]:
    """Remarks about the images, the model and the SAEs that deserve a closer look."""
    unreadable = origin.images.get("n_unreadable", 0)
    aside = rows["n_skipped"].iloc[0] - unreadable
    yield f"images that could not be read: {unreadable}; files left aside, which are no images of a class: {aside}"
    own = (origin.model.get("accuracy") or {}).get(split) or {}
    reached, trivial = own.get("accuracy"), own.get("majority_accuracy")
    if reached is not None and trivial is not None and reached < trivial:
        yield (
            f"the model's accuracy is {100 * reached:.1f} %, below the {100 * trivial:.1f} % of always naming the most frequent class: "
            "check the order of its classes and the scaling of its images"
        )
    for layer, measured in origin.saes.items():
        if (explained := measured["explained_variance"]) is not None and explained < POOR:
            yield (
                f"the SAE of layer {layer} explains {100 * explained:.0f} % of the variance: check that it belongs to this model and layer; "
                "its features say little"
            )


def _where(measures: Mapping[str, Mapping[str, Measure]], frame: pd.DataFrame, deletion: bool) -> Iterator[str]:
    yield "- [report.html](report.html): the answer with its figure, methods, metrics, SAEs and cases, in one file"
    yield "- [summary.csv](summary.csv): the table to read, a row per experiment, metric and fill; `summary.html` sorts"
    yield "- [hypotheses.csv](hypotheses.csv): each combined gate against what could explain its effect"
    yield "- [methods.csv](methods.csv): all experiments with their cost in passes and their mean by every metric"
    yield "- [decomposition.csv](decomposition.csv): what order and values give to the gates' gains"
    yield "- [agreement.csv](agreement.csv): how far the metrics agree, over experiments and over images"
    if deletion:
        yield "- [feature_deletion.csv](feature_deletion.csv): what deleting SAE features does to the logit, by their scores"
    yield "- [sae_quality.csv](sae_quality.csv): everything measured of the SAEs, and which levels of quality they keep"
    yield "- [comparison.csv](comparison.csv): all statistics, also by class and for correctly and wrongly classified images"
    yield "- `DATASET/images.parquet`: which images are measurable; `DATASET/curves/`: the probability, step by step"
    cases = ", ".join(f"`{dataset}/cases/`" for dataset in measures)
    yield f"- {cases}: case studies, where they are switched on; `cases.html` and `features.html` list them"
    yield (
        "- Snakemake's own report, after `snakemake results/summary.csv --cores 1 --report all.html`: all pages, pictures and "
        "the code of the rules in one file"
    )
    for dataset, measured in measures.items():
        own = {measure.metric.name: measure.metric for measure in measured.values()}
        powers = bool((frame.loc[frame["dataset"] == dataset, "control"] == "power").any())
        drawn = figures(own, powers, deletion)
        links = ", ".join(f"[{title}](figures/{dataset}_{name}.png)" for name, title in drawn.items())
        yield f"- figures of `{dataset}`: {links}"


def _number(value: Any) -> str:
    return "unknown" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
