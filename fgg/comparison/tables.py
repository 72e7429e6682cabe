"""The comparison tables: a row per dataset, experiment, metric and stratum, and the named hypotheses.

Every experiment of a dataset is compared with the baseline on the same images. A row's numbers rest on the
images on which both scores are defined, so ``mean - baseline_mean = difference``; ``n_undefined`` counts the
experiment's own undefined scores, ``n_left_out`` the images that the pair lacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from fgg.comparison.scores import Scores, read_scores
from fgg.degeneracy import measured, note
from fgg.experiments import experiment_id, flat, is_plain_combined
from fgg.faithfulness.registry import Metric, chosen, defaults
from fgg.statistics.paired import ALPHA, Row, describe, holm, paired
from fgg.tables import read_json

STRATA = ("all", "correct", "incorrect")  # by label == predicted

_TEXT, _NUMBER, _COUNT, _FLAG = pa.string(), pa.float64(), pa.int64(), pa.bool_()
_SETTINGS = {
    "method": _TEXT,
    "layers": _TEXT,  # such as 1+2
    "construction": _TEXT,
    "clamp_max": _NUMBER,
    "alpha": _NUMBER,
    "shuffle_decoder": _FLAG,
    "control": _TEXT,
}
_STATISTICS = {
    "difference": _NUMBER,  # treatment - baseline, in the metric's unit
    "ci_low": _NUMBER,  # 95 % BCa interval of the difference
    "ci_high": _NUMBER,
    "improvement": _NUMBER,  # from here on, positive is better
    "improvement_pct": _NUMBER,  # of |baseline mean|
    "effect_size": _NUMBER,  # d_z
    "p_value": _NUMBER,  # paired t
    "p_adjusted": _NUMBER,  # Holm
    "significant": _FLAG,  # p_adjusted < 0.05
    "wilcoxon_p": _NUMBER,
    "wilcoxon_p_adjusted": _NUMBER,
    "share_improved": _NUMBER,
    "n_tied": _COUNT,
    "reason": _TEXT,  # why a statistic is missing
    "n_experiments_tried": _COUNT,  # the experiments of the dataset, without the baseline
    "protocol": _TEXT,
    "precision": _TEXT,
    "note": _TEXT,
}
COMPARISON = pa.schema(
    {
        "dataset": _TEXT,
        "experiment": _TEXT,
        **_SETTINGS,
        "metric": _TEXT,
        "higher_is_better": _FLAG,
        "stratum": _TEXT,
        "n_images": _COUNT,
        "n": _COUNT,  # images the row's numbers rest on
        "n_undefined": _COUNT,
        "n_left_out": _COUNT,
        "n_skipped": _COUNT,  # files of the dataset that could not be read, whatever their split
        "mean": _NUMBER,
        "sd": _NUMBER,
        "sem": _NUMBER,
        "monte_carlo_se": _NUMBER,  # Faithfulness Correlation: the mean's error from drawing subsets
        "n_with_ties": _COUNT,  # images on which patches share a relevance
        "baseline": _TEXT,
        "baseline_mean": _NUMBER,
        **_STATISTICS,
    }
)
HYPOTHESES = pa.schema(
    {
        "dataset": _TEXT,
        "metric": _TEXT,
        "higher_is_better": _FLAG,
        "experiment": _TEXT,
        "against": _TEXT,
        "partner": _TEXT,
        **{name: _SETTINGS[name] for name in ("layers", "clamp_max", "alpha")},
        "n": _COUNT,
        "n_left_out": _COUNT,
        "mean": _NUMBER,
        "partner_mean": _NUMBER,
        "verdict": _TEXT,
        **_STATISTICS,
    }
)


def comparison(results: str | Path, datasets: Sequence[str], settings: Mapping[str, Any]) -> tuple[pa.Table, pa.Table]:
    """The tables `COMPARISON` and `HYPOTHESES` of the datasets, in the order of the configuration.

    ``settings`` holds baseline, protocol, precision, seed, experiments {dataset: {id: settings}} and, if there are any,
    metrics {dataset: [names]} (otherwise the default ones), notes {dataset: {id: text}} and skipped {dataset: count}.
    Scores are read from ``results/{dataset}/``.
    """
    rows: list[Row] = []
    tests: list[Row] = []
    for dataset in datasets:
        experiments = settings["experiments"][dataset]
        metrics = metrics_of(settings, dataset)
        scores = read_scores(Path(results) / dataset, list(experiments), settings["baseline"], metrics)
        notes = _notes(settings, dataset, scores)
        common = {
            "dataset": dataset,
            "n_experiments_tried": len(experiments) - 1,
            "n_skipped": settings.get("skipped", {}).get(dataset, 0),
            "protocol": settings["protocol"],
            "precision": settings["precision"],
        }
        for name, own in experiments.items():
            for metric in metrics.values():
                for row in _compare(scores, name, metric, settings, dataset):
                    rows.append(row | common | flat(own) | {"note": notes[name]})
        for hypothesis in hypotheses(experiments):
            for metric in metrics.values():
                row = _test(scores, hypothesis, metric, settings, dataset)
                remark = "; ".join(dict.fromkeys(filter(None, (notes[row["experiment"]], notes[row["partner"]]))))
                tests.append(row | common | flat(experiments[row["experiment"]]) | {"note": remark})
    _adjust(rows, ("dataset", "metric", "stratum"))
    _adjust(tests, ("dataset", "metric"))
    for row in tests:
        row["verdict"] = verdict(row)
    return pa.Table.from_pylist(rows, schema=COMPARISON), pa.Table.from_pylist(tests, schema=HYPOTHESES)


def metrics_of(settings: Mapping[str, Any], dataset: str) -> dict[str, Metric]:
    """The metrics of a dataset, by name, from the settings of a comparison."""
    return chosen(settings.get("metrics", {}).get(dataset) or defaults())


def hypotheses(experiments: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """(combined gate, what it is held against, that experiment's id), for the partners that the grid has."""
    for name, settings in experiments.items():
        if not is_plain_combined(settings):
            continue
        gate = settings["gate"]
        partners = {
            "transmm": "transmm",
            "shuffled": experiment_id({**gate, "shuffle_decoder": True}),
            "permuted": experiment_id(gate, "permuted_gate"),
            "sharpened": experiment_id(gate, "sharpened"),
        } | {
            other: experiment_id({**gate, "construction": other})
            for other in ("no_sae", "activation_only", "gradient_only")
        }
        yield from ((name, kind, partner) for kind, partner in partners.items() if partner in experiments)


def verdict(row: Mapping[str, Any]) -> str:
    """A hypothesis' result in words: better, worse, no difference shown, identical scores, or not testable."""
    if np.isnan(row["p_value"]):
        return row["reason"] if row["reason"] == "identical scores" else f"not testable: {row['reason']}"
    if not row["significant"]:
        return "no difference shown"
    return "better" if row["improvement"] > 0 else "worse"


def read_notes(models: str | Path, experiments: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """What is degenerate about the experiments, from the ``layers`` of each ``models/{dataset}/model.json``."""
    notes = {}
    for dataset, own in experiments.items():
        layers = measured(read_json(Path(models) / dataset / "model.json")["layers"])
        notes[dataset] = {name: remark for name, settings in own.items() if (remark := note(settings, layers))}
    return notes


def _strata(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    correct = (frame["label"] == frame["predicted"]).to_numpy()
    return {"all": np.ones(len(frame), dtype=bool), "correct": correct, "incorrect": ~correct}


def _compare(scores: Scores, name: str, metric: Metric, settings: Mapping[str, Any], dataset: str) -> Iterator[Row]:
    """The rows of one experiment and metric, a row per stratum; strata follow the baseline's predictions."""
    own, reference = scores[name], scores[settings["baseline"]]
    for stratum, inside in _strata(reference).items():
        frame = own[inside]
        row = {
            "experiment": name,
            "metric": metric.name,
            "higher_is_better": metric.higher_is_better,
            "stratum": stratum,
            "n_images": len(frame),
            "n_undefined": int(frame[metric.name].isna().sum()),
            "n_with_ties": int((frame["relevance_ties"] > 0).sum()),
            "monte_carlo_se": _monte_carlo_se(frame[metric.error_column]) if metric.error_column else np.nan,
            "baseline": settings["baseline"],
        }
        if name == settings["baseline"]:
            described = describe(frame[metric.name])
            empty = dict.fromkeys((k for k, kind in _STATISTICS.items() if kind == _NUMBER), np.nan)
            left_out = {"n_left_out": row["n_undefined"], "n_tied": 0}
            yield row | empty | described | left_out | {"baseline_mean": described["mean"], "reason": "the baseline"}
        else:
            key = _key(settings, dataset, name, metric)
            found = paired(frame[metric.name], reference[inside][metric.name], metric.sign, key)
            yield row | found | {"n": found["n_pairs"]}


def _test(scores: Scores, hypothesis: tuple[str, str, str], metric: Metric, settings: Mapping, dataset: str) -> Row:
    name, against, partner = hypothesis
    key = _key(settings, dataset, name, metric)
    found = paired(scores[name][metric.name], scores[partner][metric.name], metric.sign, key)
    return found | {
        "experiment": name,
        "metric": metric.name,
        "higher_is_better": metric.higher_is_better,
        "against": against,
        "partner": partner,
        "n": found["n_pairs"],
        "partner_mean": found["baseline_mean"],
    }


def _key(settings: Mapping[str, Any], dataset: str, experiment: str, metric: Metric) -> tuple[str | int, ...]:
    return (settings["seed"], "bootstrap", dataset, experiment, metric.name)


def _monte_carlo_se(errors: pd.Series) -> float:
    """The standard error of the mean that comes from drawing at random; images are drawn independently."""
    errors = errors.dropna()
    return float(np.sqrt((errors**2).sum()) / len(errors)) if len(errors) else np.nan


def _adjust(rows: list[Row], family: Sequence[str]) -> None:
    """Add the Holm-adjusted p-values and ``significant`` to the rows, within each family."""
    families: dict[tuple, list[Row]] = {}
    for row in rows:
        families.setdefault(tuple(row[name] for name in family), []).append(row)
    for members in families.values():
        for source, target in (("p_value", "p_adjusted"), ("wilcoxon_p", "wilcoxon_p_adjusted")):
            for row, adjusted in zip(members, holm([row[source] for row in members]), strict=True):
                row[target] = float(adjusted)
        for row in members:
            row["significant"] = row["p_adjusted"] < ALPHA


def _notes(settings: Mapping[str, Any], dataset: str, scores: Scores) -> dict[str, str]:
    """The given note of every experiment, and a count of the images that it predicted otherwise than the baseline."""
    given = settings.get("notes", {}).get(dataset, {})
    predicted = scores[settings["baseline"]]["predicted"]
    notes = {}
    for name, frame in scores.items():
        other = int((frame["predicted"] != predicted).sum())
        extra = f"{other} images predicted otherwise than by {settings['baseline']}" if other else ""
        notes[name] = "; ".join(filter(None, (given.get(name, ""), extra)))
    return notes
