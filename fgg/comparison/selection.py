"""Choose the best gate without peeking: ``python -m fgg.comparison.selection``.

The rule: among the gates that read an SAE and are not controls, take the one with the largest effect size d_z against
the baseline, averaged over the metrics, on the validation split. It is reported once on the explained split. Holm's
adjustment is over the metrics only, since there was one choice and it did not use these images. Both steps use the
measurable images; if too few of the validation images are measurable, both use all images, and the tables say so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fgg.comparison.compared import measures_of
from fgg.comparison.scores import read_scores
from fgg.comparison.strata import MEASURABLE, VERDICTS
from fgg.errors import FggError
from fgg.experiments import candidates
from fgg.faithfulness.measurable import measurable_images
from fgg.faithfulness.measures import Measure
from fgg.jobs.command import command, json_object
from fgg.statistics.paired import effect_size, holm, paired
from fgg.statistics.power import ALPHA
from fgg.tables import write_csv

RULE = "largest mean effect size (d_z over the metrics and fills) on the {} images of the validation split"


@command
def main(argv: list[str] | None = None) -> None:
    """Rank the candidates on the validation split and report the best one on the explained split."""
    parser = argparse.ArgumentParser(prog="python -m fgg.comparison.selection", description=__doc__.split("\n")[0])
    parser.add_argument("--experiments", required=True, type=json_object, help="JSON {dataset: [[id, settings], …]}")
    parser.add_argument("--settings", required=True, type=json_object, help="JSON: baseline, seed")
    parser.add_argument("--results", required=True, type=Path, help="folder with {dataset}/[validation/]faithfulness/")
    parser.add_argument("--output", required=True, help="CSV of the choice")
    parser.add_argument("--ranking", required=True, help="CSV of all candidates")
    arguments = parser.parse_args(argv)
    chosen, ranking = [], []
    for dataset, grid in arguments.experiments.items():
        place, measures = arguments.results / dataset, measures_of(arguments.settings, dataset)
        own = rank(place / "validation", dataset, candidates(dict(grid)), arguments.settings, measures)
        ranking += own
        chosen += confirm(place, dataset, own, arguments.settings, measures)
    write_csv(arguments.ranking, pd.DataFrame(ranking))
    write_csv(arguments.output, pd.DataFrame(chosen))
    for row in chosen:
        print(
            f"{row['dataset']}: chosen of {row['n_candidates']} {row['experiment']}; {row['metric']} "
            f"{row['improvement_pct']:+.1f} %, p {row['p_adjusted']:.2g}"
        )


def rank(
    folder: Path, dataset: str, names: list[str], settings: dict[str, Any], measures: Mapping[str, Measure]
) -> list[dict[str, Any]]:
    """Rank the candidates on the validation split, best first: one row each, with the effect size per measure.

    Only measurable images are used, or all images if too few are measurable; the column ``stratum`` says which.

    Raises:
        FggError: no candidate has an effect size in every metric.
    """
    baseline = settings["baseline"]
    scores = read_scores(folder, [baseline, *names], baseline, measures)
    for stratum in VERDICTS:
        rows: list[dict[str, Any]] = []
        inside = {name: _inside(folder, entry, scores[baseline].index, stratum) for name, entry in measures.items()}
        for name in names:
            effects = {}
            for measure, entry in measures.items():
                differences = (scores[name][measure] - scores[baseline][measure])[inside[measure]].dropna().to_numpy()
                effects[measure] = entry.metric.sign * effect_size(differences)
            mean = float(np.mean(list(effects.values())))
            rows.append(
                {"dataset": dataset, "experiment": name, "stratum": stratum, "mean_effect_size": mean}
                | {f"{measure}_effect_size": effect for measure, effect in effects.items()}
            )
        # A candidate with the baseline's scores has no effect size and comes last. Ties keep the grid's order.
        rows.sort(key=lambda row: -np.nan_to_num(row["mean_effect_size"], nan=-np.inf))
        if rows and not np.isnan(rows[0]["mean_effect_size"]):
            return rows
    raise FggError(f"select: no gate of {dataset!r} has an effect size on the validation split; use more images")


def _inside(folder: Path, measure: Measure, ids: pd.Index, stratum: str) -> np.ndarray:
    """The images of a stratum, bool (n,)."""
    return measurable_images(folder, measure.fill, ids) if stratum == MEASURABLE else np.ones(len(ids), dtype=bool)


def confirm(
    folder: Path,
    dataset: str,
    ranking: list[dict[str, Any]],
    settings: dict[str, Any],
    measures: Mapping[str, Measure],
) -> list[dict[str, Any]]:
    """Test the best candidate on the explained split, on the same stratum of images: a row per measure."""
    baseline, name, stratum = settings["baseline"], ranking[0]["experiment"], ranking[0]["stratum"]
    scores = read_scores(folder, [baseline, name], baseline, measures)
    rows = []
    for measure, entry in measures.items():
        inside = _inside(folder, entry, scores[baseline].index, stratum)
        own, reference = (scores[each].loc[inside, measure] for each in (name, baseline))
        found = paired(own, reference, entry.metric.sign, settings["seed"])
        rows.append(
            {
                "dataset": dataset,
                "rule": RULE.format(stratum),
                "stratum": stratum,
                "n_candidates": len(ranking),
                "experiment": name,
                "metric": entry.metric.name,
                "fill": entry.fill,
                "higher_is_better": entry.metric.higher_is_better,
                "validation_effect_size": ranking[0][f"{measure}_effect_size"],
            }
            | {
                column: found[column]
                for column in ("n_pairs", "mean", "baseline_mean", "difference", "improvement_pct", "ci_low", "ci_high")
            }
            | {column: found[column] for column in ("effect_size", "p_value", "wilcoxon_p", "share_improved")}
        )
    for row, adjusted in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_adjusted"] = float(adjusted)
        row["significant"] = bool(adjusted < ALPHA)
    return rows


if __name__ == "__main__":
    sys.exit(main())
