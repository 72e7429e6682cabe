"""The report of a run in one file that needs no network: ``results/report.html``.

    python -m fgg.report.report_page --results results --configuration JSON --pages summary hypotheses --datasets elpv \
        --figures overview saco --cases results/elpv/cases/gated-l2-combined-c10-a1 --output results/report.html

The answer comes first, then methods, agreement of the metrics, SAEs, cases, figures, tables, and the configuration.
Nothing in it depends on the time or the machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from fgg.comparison.compared import measures_of
from fgg.comparison.pooled import EVERY
from fgg.faithfulness.measures import Measure
from fgg.jobs.command import command, json_object
from fgg.report import report_sections as sections
from fgg.report.answer import Answer, answers, signed, unasked
from fgg.report.contents import figures, pages
from fgg.report.headline import TEXTS
from fgg.report.html import render
from fgg.report.metrics_shown import measures_in
from fgg.report.table_texts import BRIEF
from fgg.tables import atomic, read_csv, read_settings, read_table

MOST_EFFECTS = 40  # rows of effects per dataset
TABLES = ("hypotheses", "pooled", "agreement", "sae_quality")


@command
def main(argv: list[str] | None = None) -> None:
    """Read the tables and pictures and write the report."""
    parser = argparse.ArgumentParser(prog="python -m fgg.report.report_page", description=__doc__.split("\n")[0])
    parser.add_argument("--results", required=True, type=Path, help="folder with the tables, figures and case studies")
    parser.add_argument("--configuration", required=True, type=json_object, help="JSON: all settings of the run")
    parser.add_argument("--pages", nargs="*", default=[], choices=list(pages()), metavar="NAME", help="pages beside it")
    parser.add_argument("--datasets", nargs="+", required=True, metavar="NAME", help="datasets to show pictures of")
    parser.add_argument("--figures", nargs="*", default=[], metavar="NAME", help="figures of these datasets")
    parser.add_argument("--cases", nargs="*", default=[], type=Path, help="folders of case studies")
    parser.add_argument("--output", required=True, type=Path, help="HTML file to write")
    arguments = parser.parse_args(argv)
    text = report(
        arguments.results,
        arguments.configuration,
        arguments.pages,
        arguments.datasets,
        arguments.figures,
        arguments.cases,
    )
    with atomic(arguments.output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def report(
    results: Path, configuration: Any, names: list[str], datasets: list[str], drawn: list[str], cases: list[Path]
) -> str:
    """The report as HTML.

    Args:
        results: the folder with the tables.
        configuration: all settings of the run.
        names: pages of tables that lie beside the report.
        datasets: datasets whose figures are shown.
        drawn: names of the figures.
        cases: folders of case studies.
    """
    comparison = read_table(results / "comparison.parquet").to_pandas()
    tables = {
        name: read_csv(path, texts=(*TEXTS, "experiment", "kind"))
        for name in TABLES
        if (path := results / f"{name}.csv").is_file() and (name in names or name == "hypotheses")
    }
    measures = _measures(results, comparison)
    own = {
        "answers": _answers(comparison, tables, measures),
        "alerts": sections.alerts(comparison),
        "methods": sections.methods(comparison, measures),
        "agreement": sections.agreement(tables["agreement"], measures) if "agreement" in tables else [],
        "saes": sections.saes(tables["sae_quality"]) if "sae_quality" in tables else None,
        "cases": sections.cases(cases, results),
        "figures": sections.pictures(results, datasets, {name: _titles(measures).get(name, name) for name in drawn}),
    }
    shown = ["answer", *(name for name in ("methods", "agreement", "saes", "cases", "figures") if own[name])]
    plain = json.loads(json.dumps(configuration))
    return render(
        "report", title="fgg report", where=", ".join(dict.fromkeys(comparison["dataset"])), every=EVERY, most=MOST_EFFECTS,
        contents=[(name, sections.TITLES[name]) for name in (*shown, "tables", "configuration")],
        several=comparison["seed"].nunique() > 1,
        pages=[{"file": f"{name}.html", "title": pages()[name][1], "about": BRIEF.get(name, "")} for name in names],
        feature_pages=sections.feature_pages(cases, results), signed=signed, at=_at,
        settings=yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True), **own,
    )  # fmt: skip


def _measures(results: Path, comparison: pd.DataFrame) -> dict[str, dict[str, Measure]]:
    """Dataset -> name -> measure; from the table where its settings do not tell."""
    settings = read_settings(results / "comparison.parquet")
    return {
        str(dataset): measures_of(settings, str(dataset))
        if dataset in settings.get("metrics", {})
        else measures_in(rows)
        for dataset, rows in comparison.groupby("dataset", sort=False)
    }


def _answers(
    comparison: pd.DataFrame, tables: dict[str, pd.DataFrame], measures: dict[str, dict[str, Measure]]
) -> list[Answer]:
    known = {name: measure for own in measures.values() for name, measure in own.items()}
    asked = set(tables["hypotheses"]["dataset"])
    found = list(answers(tables["hypotheses"], known, tables.get("pooled"))) if asked else []
    found.sort(key=lambda own: own.dataset != EVERY)  # all together come first
    every = dict.fromkeys(comparison["dataset"])
    return found + [unasked(name, comparison[comparison["dataset"] == name]) for name in every if name not in asked]


def _titles(measures: dict[str, dict[str, Measure]]) -> dict[str, str]:
    """Names of figures -> titles."""
    metrics = {measure.metric.name: measure.metric for own in measures.values() for measure in own.values()}
    return figures(metrics, powers=True, deletion=True, sweep=True)


def _at(change: float, reach: float) -> str:
    """The place of a change on an axis from -reach to reach, in % of its width."""
    return f"{50 + 48 * max(-1.0, min(1.0, change / reach)):.2f}"


if __name__ == "__main__":
    sys.exit(main())
