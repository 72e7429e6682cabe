"""The pages of the report: every table as sortable HTML, the results as text, configuration and versions.

    python -m fgg.report.pages --results results --pages summary hypotheses --configuration JSON \
        --output results

Reads ``{table}.csv`` (the summary from comparison.parquet, the case studies from their folders) and writes
``{page}.html``.
Only ``versions.html`` depends on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from fgg.comparison.summary import SETTINGS, summary
from fgg.jobs.command import command, json_object
from fgg.report.contents import pages
from fgg.report.html import markdown, render, table_page, text_page
from fgg.report.table_texts import ABOUT, COLUMNS, FIRST
from fgg.tables import atomic, read_csv, read_table

TEXTS = (
    "dataset",
    "seed",
    "seeds",
    "fill",
    "first_fill",
    "second_fill",
    "experiment",
    "layers",
    "partner",
    "feature",
    "image_id",
    "true_class",
    "predicted_class",
)
FOLDED = ("cases", "features")  # tables that are joined from one per folder of case studies


@command
def main(argv: list[str] | None = None) -> None:
    """Read the tables and write the pages."""
    parser = argparse.ArgumentParser(prog="python -m fgg.report.pages", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--results", required=True, type=Path, help="folder with the tables, README.md and case studies"
    )
    parser.add_argument(
        "--pages", required=True, nargs="+", choices=list(pages()), metavar="NAME", help=", ".join(pages())
    )
    parser.add_argument("--cases", nargs="*", default=[], type=Path, help="folders with cases.csv and features.csv")
    parser.add_argument("--configuration", required=True, type=json_object, help="JSON: all settings of the run")
    parser.add_argument("--output", required=True, type=Path, help="folder for the pages")
    arguments = parser.parse_args(argv)
    for name in arguments.pages:
        text = page(name, arguments.results, arguments.cases, arguments.configuration)
        with atomic(arguments.output / f"{name}.html") as temporary:
            temporary.write_text(text, encoding="utf-8")


def page(name: str, results: Path, cases: list[Path], configuration: Any) -> str:
    """One of `fgg.report.contents.pages` as HTML."""
    title = pages()[name][1]
    if name == "README":
        return text_page(title, (results / "README.md").read_text(encoding="utf-8"))
    if name == "configuration":
        return configuration_page(title, configuration)
    if name == "versions":
        return versions_page(title)
    if name == "summary":
        frame = summary(read_table(results / "comparison.parquet").to_pandas())
    elif name in FOLDED:
        frames = [read_csv(folder / f"{name}.csv", texts=TEXTS) for folder in cases]
        frame = pd.concat(frames, ignore_index=True)
    else:
        frame = read_csv(results / f"{name}.csv", texts=TEXTS)
    links = _pictures(frame, cases, results) if name in FOLDED else None
    settings = [column for column in SETTINGS if column in frame]  # the experiment's id contains them: they go last
    frame = frame[[column for column in frame if column not in settings] + settings]
    return table_page(frame, title, ABOUT[name], f"{name}.csv", COLUMNS, FIRST.get(name, ()), links)


def _pictures(frame: pd.DataFrame, cases: list[Path], results: Path) -> dict[str, list[str]]:
    """The pictures that rows of the case studies name, as seen from the results."""
    places = {(folder.parents[1].name, folder.name): folder.relative_to(results).as_posix() for folder in cases}
    return {
        column: [
            f"{places[row['dataset'], row['experiment']]}/{row[column]}"
            if isinstance(row[column], str) and row[column]
            else ""
            for row in frame.to_dict("records")
        ]
        for column in ("picture", "page")
        if column in frame
    }


def configuration_page(title: str, configuration: Any) -> str:
    """All settings, including defaults."""
    text = "The settings of this run, with the defaults of all keys that the configuration left out."
    plain = json.loads(json.dumps(configuration))
    shown = yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True)
    return render("settings", title=title, about=markdown(text), settings=shown)


def versions_page(title: str) -> str:
    """The versions in use: the project's commit, the machine, and every installed package."""
    facts = {"commit": commit(), "Python": platform.python_version(), "system": platform.platform(terse=True)}
    facts |= {"processor": platform.processor() or platform.machine(), "cores": str(os.cpu_count()), "GPU": gpus()}
    packages = sorted({(found.metadata["Name"] or "", found.version) for found in distributions()}, key=_fold)
    rows = "".join(f"| {name} | {value} |\n" for name, value in facts.items())
    text = (
        f"# {title}\n\nAs they were when the report's pages were written.\n\n| | |\n|---|---|\n{rows}\n## Packages\n\n"
    )
    text += "| package | version |\n|---|---|\n" + "".join(f"| {name} | {version} |\n" for name, version in packages)
    return text_page(title, text)


def commit() -> str:
    """The commit of the package's repository, and whether there are uncommitted changes."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists() or shutil.which("git") is None:
        return "unknown: not in a git checkout"
    found = _said(["git", "-C", str(folder), "rev-parse", "HEAD"])
    changed = _said(["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"])
    return (found or "unknown") + (", with changes that are not committed" if changed else "")


def gpus() -> str:
    """The names of the GPUs that the driver reports."""
    if shutil.which("nvidia-smi") is None:
        return "none"
    return ", ".join(_said(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]).splitlines()) or "none"


def _said(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _fold(entry: tuple[str, str]) -> tuple[str, str]:
    return entry[0].lower(), entry[1]


if __name__ == "__main__":
    sys.exit(main())
