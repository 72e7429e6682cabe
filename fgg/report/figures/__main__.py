"""All figures of a dataset, PNG and SVG.

    python -m fgg.report.figures --comparison results/comparison.parquet --hypotheses results/hypotheses.csv \
        --results results --images data/prepared/elpv/test.parquet --model data/models/elpv --saes data/saes/elpv \
        --dataset elpv --output results/figures

Writes ``{dataset}_{figure}`` for each name in `fgg.report.contents.figures`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from fgg.catalogue import CONSTRUCTIONS
from fgg.comparison.compared import measures_of
from fgg.comparison.quality import LEVELS, weak_saes
from fgg.comparison.strata import ALL, MEASURABLE
from fgg.errors import FggError
from fgg.jobs.command import command
from fgg.report.contents import CURVED, figures
from fgg.report.figures import style
from fgg.report.figures.dot_plots import hypotheses_figure, metric_figure
from fgg.report.figures.feature_deletion import deletion_figure
from fgg.report.figures.forest import forest_figure
from fgg.report.figures.gate_histograms import gates_figure
from fgg.report.figures.layer_heat_map import heat_figure
from fgg.report.figures.map_overview import overview_figure
from fgg.report.figures.methods import methods_figure
from fgg.report.figures.order_curves import order_curves_figure
from fgg.report.figures.paired_differences import pairs_figure
from fgg.report.figures.pixel_flipping_curves import curves_figure
from fgg.report.figures.powers import POWER, powers_figure
from fgg.report.figures.sae_pareto import measured_rows, pareto_figure
from fgg.report.figures.sae_quality import quality, quality_figure
from fgg.report.figures.sae_training import sweep_figure, training_figure
from fgg.report.figures.sampling_error import sampling_figure
from fgg.report.metrics_shown import for_panels, rows_of, uncrowded
from fgg.tables import read_csv, read_settings, read_table


@command
def main(argv: list[str] | None = None) -> None:
    """Draw the figures of one dataset."""
    parser = argparse.ArgumentParser(prog="python -m fgg.report.figures", description=__doc__.split("\n")[0])
    parser.add_argument("--comparison", required=True, help="results/comparison.parquet")
    parser.add_argument("--hypotheses", required=True, help="results/hypotheses.csv")
    parser.add_argument("--results", required=True, help="folder with {dataset}/{faithfulness,attributions,gates}/")
    parser.add_argument("--images", required=True, help="the explained split (.parquet)")
    parser.add_argument("--model", required=True, help="folder with model.json")
    parser.add_argument("--saes", required=True, help="folder with layer_{l}/metrics.json")
    parser.add_argument("--seed", type=int, default=0, help="draws the images of the overview")
    parser.add_argument("--dataset", required=True)
    parser.add_argument(
        "--figures", nargs="*", default=[], metavar="NAME", help="figures that must be there in any case"
    )
    parser.add_argument("--deletion", help="results/feature_deletion.csv, if SAE features were deleted")
    parser.add_argument("--sweep", nargs="*", default=[], help="tables of a sweep of SAEs, one per layer")
    parser.add_argument("--pooled", help="results/pooled.csv, if there are several runs")
    parser.add_argument("--quality", help="results/sae_quality.csv; without it, controls of the SAEs are not drawn")
    parser.add_argument("--output", required=True, help="folder for the figures")
    arguments = parser.parse_args(argv)
    dataset, results, output = arguments.dataset, arguments.results, arguments.output

    settings = read_settings(arguments.comparison)
    measures = measures_of(settings, dataset)
    seed = str(settings.get("instances", {}).get(dataset, settings)["seed"])
    everything = read_rows(arguments.comparison, dataset, seed, ALL)
    frame = read_rows(arguments.comparison, dataset, seed, MEASURABLE)
    hypotheses = read_csv(arguments.hypotheses, texts=("layers", "dataset", "seed"))
    hypotheses = marked(hypotheses, weak_saes(everything["note"]))
    own = (hypotheses["dataset"] == dataset) & (hypotheses["seed"] == seed) & (hypotheses["stratum"] == MEASURABLE)
    metrics = {measure.metric.name: measure.metric for measure in measures.values()}
    per_experiment = rows_of(everything, next(iter(measures.values())))  # one row per experiment
    for name, metric in metrics.items():
        of_metric = [measure for measure in measures.values() if measure.metric is metric]
        metric_figure(frame[frame["metric"] == name], of_metric, output)
    few = for_panels(metrics)
    some, tests = frame[frame["metric"].isin(few)], hypotheses[own & hypotheses["metric"].isin(few)]
    hypotheses_figure(tests, dataset, output, measures)
    runs = read_rows(arguments.comparison, dataset, None, MEASURABLE)
    together = _of_dataset(arguments.pooled, dataset, MEASURABLE) if arguments.pooled else None
    forest_figure(runs[runs["metric"].isin(few)], seed, output, measures, together)
    pairs_figure(some, results, output, measures)
    heat_figure(some, output, measures)
    with_powers = (frame["control"] == POWER).any()
    if with_powers:
        powers_figure(some, output, measures)
    if curved := [name for name in CURVED if name in measures]:
        order_curves_figure(frame, curved[0], measures, results, output)
    if "pixel_flipping" in measures:
        flipping = measures["pixel_flipping"]
        curves_figure(uncrowded(rows_of(frame, flipping), flipping), flipping.fill, results, output)
    if "faithfulness_correlation" in measures:
        sampling_figure(rows_of(everything, measures["faithfulness_correlation"]), results, output)
    methods_figure(some, output, measures)
    gates_figure(per_experiment, results, output)
    levels = {**LEVELS, **settings.get("quality", {})}
    measured = quality(arguments.saes, sae_layers(frame))
    quality_figure(dataset, measured, output, levels)
    saes = _of_dataset(arguments.quality, dataset) if arguments.quality else measured_rows(measured)
    pareto_figure(dataset, saes[saes["seed"] == seed] if arguments.quality else saes, output, levels)
    training_figure(dataset, measured, output)
    if arguments.sweep:
        sweep_figure(dataset, [read_csv(path) for path in arguments.sweep], output)
    if arguments.deletion:
        deletion_figure(read_csv(arguments.deletion, texts=("dataset", "seed")), dataset, seed, output)
    overview_figure(
        uncrowded(per_experiment, next(iter(measures.values()))),
        results,
        arguments.images,
        arguments.model,
        arguments.seed,
        output,
    )
    for name in set(arguments.figures) - set(
        figures(metrics, with_powers, bool(arguments.deletion), bool(arguments.sweep))
    ):
        title = f"{dataset}: {name.replace('_', ' ')} was not computed"
        style.remark(
            output, f"{dataset}_{name}", title, "Another dataset of this run has the metric; this one does not."
        )


def read_rows(path: str | Path, dataset: str, seed: str | None, stratum: str) -> pd.DataFrame:
    """A dataset's rows of the comparison for a stratum, of one seed or, with None, of all of them.

    Cells that do not apply to a method are None, not NaN.

    Raises:
        FggError: the comparison lacks the dataset.
    """
    table = read_table(path).to_pandas()
    for name in ("layers", "construction", "control", "shuffle_decoder"):
        table[name] = table[name].astype(object).where(table[name].notna(), None)
    frame = table[(table["dataset"] == dataset) & (table["stratum"] == stratum)]
    frame = frame if seed is None else frame[frame["seed"] == seed]
    if frame.empty:
        raise FggError(f"{path} has no dataset {dataset!r}; run the comparison with it")
    return marked(frame, weak_saes(frame["note"]))


def _of_dataset(path: str | Path, dataset: str, stratum: str | None = None) -> pd.DataFrame:
    """A dataset's rows of the pooled table, against the baseline and on a stratum, or of the table of SAEs."""
    table = read_csv(path, texts=("dataset", "seed", "fill"))
    table = table[table["dataset"] == dataset]
    return table if stratum is None else table[(table["against"] == "baseline") & (table["stratum"] == stratum)]


def marked(frame: pd.DataFrame, weak: Collection[int]) -> pd.DataFrame:
    """The rows with a column ``weak_sae``: whether the SAE of one of the gated layers is among the weak ones."""
    named = [layers.split("+") if isinstance(layers, str) else [] for layers in frame["layers"]]
    return frame.assign(weak_sae=[any(int(layer) in weak for layer in own) for own in named])


def sae_layers(frame: pd.DataFrame) -> list[int]:
    """The layers whose SAEs the experiments read."""
    reading = frame["construction"].isin([name for name, entry in CONSTRUCTIONS.items() if entry.needs_sae])
    return sorted({int(layer) for layers in frame.loc[reading, "layers"] for layer in layers.split("+")})


if __name__ == "__main__":
    sys.exit(main())
