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
ABOUT = {
    "summary": (
        "A row per dataset, seed, experiment, metric and fill, on the measurable images and on all (`stratum`). `difference` is "
        "experiment minus baseline on the same images, in the metric's own direction; `improvement_pct` and `effect_size` are "
        "positive if the experiment is better. Orange: significantly better; purple: significantly worse."
    ),
    "hypotheses": (
        "Every gate by activation × gradient (`experiment`) against what could explain its effect (`against`), with a "
        "verdict in words. *p* from the paired t-test; Holm over the metrics and these rows together (`family`), within a "
        "dataset, seed, stratum and fill."
    ),
    "methods": (
        "A row per experiment: its passes per image, and its mean by every metric on the measurable images. A `ceiling` is built "
        "from what a metric measures; the `floor` is random; a `reference` is a map of known content. `completeness_residual` is "
        "what the attributions of a method that should add up to a difference of logits lack to it (mean absolute value)."
    ),
    "judged": (
        "Planted images: how often a metric gives the map that points at the cue a better score than the map that points at the "
        "decoy, on images on which the model uses the cue. 1: always right; 0.5: a guess."
    ),
    "decomposition": (
        "What the order of the patches and the spread of the values give to each gate's gain over TransMM: the gate's order with "
        "TransMM's values, and TransMM's order with the gate's values. `order` and `values` are Shapley values, each the mean of "
        "the change made first and last; positive is better."
    ),
    "agreement": (
        "Spearman correlation of two metrics over the experiments (`over_methods`, of their means) and over the images "
        "(`over_images`, of the gains over the baseline, mean over experiments). 1: they rank alike; 0: they have nothing to do "
        "with each other."
    ),
    "pooled": (
        "Differences pooled over seeds, and over datasets in the rows of (all): random effects with Hartung and Knapp's interval. "
        "`mean` is the improvement, positive is better; a further run's true value lies between `prediction_low` and "
        "`prediction_high`; `share_between` is the share of the variance that lies between runs."
    ),
    "comparison": "All statistics, also by class, and for the correctly and wrongly classified images (`stratum`).",
    "selection": (
        "The gate with the largest mean effect size on the validation split, reported once on the explained one. There was "
        "one choice, and it did not see these images, so Holm runs over the metrics only."
    ),
    "selection_ranking": "All candidates on the validation split, best first.",
    "sanity": (
        "Rank similarity of the maps before and after the model or the SAE was randomised: near 0 the map depends on what "
        "was learnt, near 1 it does not."
    ),
    "cases": (
        "A row per image, patch and feature of the case studies: the images that a gate improved and degraded most, and "
        "some drawn at random; their most changed patches; the feature with the strongest contribution in that direction."
    ),
    "features": (
        "The features that dominate patches of the explained images: how often each boosts and suppresses, in which "
        "classes, and in how many of the case studies it is named."
    ),
}
COLUMNS = {
    "dataset": "the dataset of the configuration",
    "experiment": "id of the experiment; it tells the settings",
    "method": "attribution method; gates act on TransMM",
    "layers": "gated blocks, from 0",
    "construction": "what the gate's score is made of",
    "clamp_max": "gates lie between 1/clamp_max and clamp_max",
    "alpha": "steepness of the gate",
    "shuffle_decoder": "control: gradients through a shuffled decoder",
    "control": "what the experiment is a control by",
    "metric": "faithfulness metric",
    "higher_is_better": "direction of the metric",
    "fill": "what replaces a patch; empty if the metric perturbs nothing",
    "seed": "the seed, or the seeds of the split, the model and the SAEs",
    "stratum": "measurable images, all, those whose class the model got right or wrong, or those of a class",
    "n_measurable": "of these, images whose probability falls when everything is filled",
    "smallest_detectable": "effect size d_z that so many images find with a power of 80 %, before Holm",
    "equivalence_p": "test that the effect is below the margin (TOST)",
    "order_difference": "difference with the baseline's values laid in the map's order: what the order alone gains",
    "median": "median score",
    "minimum": "smallest score",
    "maximum": "largest score",
    "difference_se": "standard error of the difference",
    "n": "images the row's numbers rest on",
    "n_images": "images of the stratum",
    "n_undefined": "images whose score is undefined",
    "n_left_out": "images that the pair lacks",
    "n_skipped": "files of the dataset that could not be used",
    "mean": "mean score over the images",
    "sd": "standard deviation over the images",
    "sem": "standard error of the mean",
    "monte_carlo_se": "Faithfulness Correlation: the mean's error from drawing subsets",
    "n_with_ties": "images on which patches share a relevance",
    "baseline_mean": "mean of the baseline on the same images",
    "partner_mean": "mean of the partner on the same images",
    "difference": "experiment minus baseline (or partner), image by image",
    "ci_low": "95 % BCa bootstrap interval of the difference, lower end",
    "ci_high": "95 % BCa bootstrap interval of the difference, upper end",
    "improvement": "the difference, positive when better",
    "improvement_pct": "in % of the absolute mean of the baseline (or partner), positive when better",
    "effect_size": "d_z: mean difference over its standard deviation, positive when better",
    "p_value": "paired t-test",
    "p_adjusted": "after Holm",
    "significant": "p_adjusted below 0.05",
    "wilcoxon_p": "signed-rank test",
    "share_improved": "share of images that improved; ties do not count",
    "reason": "why a statistic is missing",
    "note": "what is degenerate about the experiment",
    "against": "what the gate is held against",
    "verdict": "the test's result in words",
    "composite": "mean of the standardised gains on all metrics",
    "change": "change of the patch's relevance, of maps scaled from 0 to 1",
    "contribution": "the feature's term of the gate's score",
    "direction": "whether the feature boosts or suppresses the patch",
    "boosts": "patches of all explained images where the feature dominates and relevance rose",
    "suppresses": "patches of all explained images where the feature dominates and relevance fell",
}


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
    settings = [column for column in SETTINGS if column in frame]  # the experiment's id contains them: they go last
    frame = frame[[column for column in frame if column not in settings] + settings]
    return table_page(frame, title, ABOUT[name], f"{name}.csv", COLUMNS)


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
