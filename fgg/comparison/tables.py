"""The comparison tables: a row per dataset, seed, experiment, metric, fill and stratum, and the named hypotheses.

Every experiment of a dataset is compared with the baseline on the same images. A row uses the
images on which both scores are defined, so ``mean - baseline_mean = difference``. ``n_undefined`` counts the
experiment's own undefined scores, ``n_left_out`` the images that the pair leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from fgg.attribution.registry import find_method
from fgg.catalogue import DICTIONARIES
from fgg.comparison import decomposition
from fgg.comparison.agreement import agreement
from fgg.comparison.columns import AGREEMENT, COMPARISON, DECOMPOSITION, HYPOTHESES, JUDGED, NUMBERS
from fgg.comparison.compared import Compared, compared
from fgg.comparison.costs import methods_table
from fgg.comparison.judged import judged
from fgg.comparison.strata import VERDICTS
from fgg.comparison.verdicts import UNGATED, adjust
from fgg.experiments import TRANSMM, experiment_id, flat, is_plain_combined, ungated_id
from fgg.faithfulness.measures import Measure
from fgg.statistics.bootstrap import Intervals
from fgg.statistics.paired import Row, describe, with_interval

POWER = "power"  # kind of partner: TransMM to one of the powers
BY_GATE = (
    "transmm",
    UNGATED,
    "shuffled",
    "permuted",
    "sharpened",
    "values",
    "order",
    "no_sae",
    "activation_only",
    "gradient_only",
    *(against for against, _ in DICTIONARIES.values()),
)


class Tables(NamedTuple):
    """The tables of a comparison; see `fgg.comparison.columns`."""

    comparison: pa.Table
    hypotheses: pa.Table
    decomposition: pa.Table
    agreement: pa.Table
    methods: pa.Table
    judged: pa.Table


def comparison(results: str | Path, instances: Sequence[str], settings: Mapping[str, Any]) -> Tables:
    """The tables of the instances, in the order of the configuration.

    ``settings`` holds baseline, protocol, precision, seed and experiments {instance: {id: settings}}. It can also hold
    metrics {instance: [[reference, fills], …]} (by default, the default metrics with fill ``mean``), instances
    {instance: {dataset, seed}}, family, equivalence_margin, notes {instance: {id: text}}, classes {instance: names} and
    skipped {instance: count}. Scores are read from ``results/{instance}/``.
    """
    rows: list[Row] = []
    tests: list[Row] = []
    parts: list[Row] = []
    alike: list[Row] = []
    preferred: list[Row] = []
    measures = {}
    intervals = Intervals(settings["seed"])
    for instance in instances:
        own = compared(Path(results), instance, settings, intervals)
        alike += agreement(own)
        preferred += judged(own)
        measures[own.common["dataset"], own.common["seed"]] = own.measures
        for measure in own.measures.values():
            groups = own.strata(measure)
            for stratum, inside in groups.items():
                rows += _compare(own, measure, inside, own.about(measure, stratum, inside))
            for stratum in VERDICTS:
                about = own.about(measure, stratum, groups[stratum])
                for number, hypothesis in enumerate(hypotheses(own.experiments)):
                    place = VERDICTS.index(stratum), number, list(own.measures).index(measure.name)
                    tests.append(_test(own, hypothesis, measure, groups[stratum], about) | {"place": place})
                parts += decomposition.rows(own, measure, groups[stratum], about)
    intervals.settle()
    rows, tests = ([with_interval(row) for row in found] for found in (rows, tests))
    parts = [decomposition.with_intervals(row) for row in parts]
    family = settings.get("family", "all")
    adjust(rows, family)
    adjust(tests, family)
    order = {name: place for place, name in enumerate(dict.fromkeys(row["experiment"] for row in rows))}
    instance_place = {(row["dataset"], row["seed"]): place for place, row in reversed([*enumerate(rows)])}
    rows.sort(key=lambda row: (instance_place[row["dataset"], row["seed"]], order[row["experiment"]]))
    tests.sort(key=lambda row: (instance_place[row["dataset"], row["seed"]], row["place"]))
    compared_rows = pa.Table.from_pylist(rows, schema=COMPARISON)
    return Tables(
        compared_rows,
        pa.Table.from_pylist(tests, schema=HYPOTHESES),
        pa.Table.from_pylist(parts, schema=DECOMPOSITION),
        pa.Table.from_pylist(alike, schema=AGREEMENT),
        methods_table(compared_rows.to_pandas(), measures),
        pa.Table.from_pylist(preferred, schema=JUDGED),
    )


def hypotheses(experiments: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Triples (combined gate, kind of partner, id of the partner), for the partners that the grid has."""
    for name, settings in experiments.items():
        if not is_plain_combined(settings):
            continue
        gate, base = settings["gate"], find_method(settings["method"]).name
        controls = {
            "permuted": "permuted_gate",
            "sharpened": "sharpened",
            "values": "gate_values",
            "order": "gate_order",
        }
        ungated = "transmm" if base == TRANSMM else UNGATED
        partners = {ungated: ungated_id(settings["method"], gate["layers"])}
        partners |= {"shuffled": experiment_id({**gate, "shuffle_decoder": True}, None, base)}
        controls |= {against: control for control, (against, _) in DICTIONARIES.items()}
        partners |= {against: experiment_id(gate, control, base) for against, control in controls.items()}
        partners |= {
            other: experiment_id({**gate, "construction": other}, None, base)
            for other in ("no_sae", "activation_only", "gradient_only")
        }
        known = [kind for kind in BY_GATE if partners.get(kind) in experiments]
        yield from ((name, kind, partners[kind]) for kind in known)
        if base == TRANSMM:
            yield from ((name, POWER, other) for other, own in experiments.items() if own.get("power"))


def _compare(own: Compared, measure: Measure, inside: np.ndarray, about: Row) -> Iterator[Row]:
    """The rows of one measure on the images of one stratum, one per experiment."""
    baseline = own.settings["baseline"]
    for name, settings in own.experiments.items():
        scores = own.values(name, measure.name)[inside]
        row = own.common | flat(settings) | about
        row |= {
            "experiment": name,
            **own.costs(name),
            "n_undefined": int(np.isnan(scores).sum()),
            "n_with_ties": int((own.values(name, "relevance_ties")[inside] > 0).sum()),
            "monte_carlo_se": np.nan,
            "baseline": baseline,
            "note": own.notes[name],
        }
        if measure.error_column:
            row["monte_carlo_se"] = _monte_carlo_se(own.values(name, measure.error_column)[inside])
        if name == baseline:
            described = describe(scores)
            left_out = {"n_left_out": row["n_undefined"], "n_tied": 0}
            row |= dict.fromkeys(NUMBERS, np.nan) | described | left_out
            yield row | {"baseline_mean": described["mean"], "reason": "the baseline"}
        else:
            found = own.pair(name, baseline, measure, inside)
            part = own.order_part(name, baseline, measure, inside)
            yield row | found | part | {"n": found["n_pairs"]}


def _test(own: Compared, hypothesis: tuple[str, str, str], measure: Measure, inside: np.ndarray, about: Row) -> Row:
    name, against, partner = hypothesis
    found = own.pair(name, partner, measure, inside)
    part = own.order_part(name, partner, measure, inside)
    remark = "; ".join(dict.fromkeys(filter(None, (own.notes[name], own.notes[partner]))))
    return (
        own.common
        | flat(own.experiments[name])
        | about
        | found
        | part
        | {
            "experiment": name,
            "against": against,
            "partner": partner,
            "n": found["n_pairs"],
            "partner_mean": found["baseline_mean"],
            "note": remark,
        }
    )


def _monte_carlo_se(errors: np.ndarray) -> float:
    """The standard error of the mean due to random draws, which are independent between images."""
    errors = errors[~np.isnan(errors)]
    return float(np.sqrt((errors**2).sum()) / len(errors)) if len(errors) else np.nan
