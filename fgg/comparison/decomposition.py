"""How much of a gate's gain is due to the order of the patches, and how much to the spread of their values.

A gate changes both. Each of the two orders can be combined with each of the two sets of values, which gives four maps.
The gain of a factor is computed with that factor changed first and with it changed last. The mean of the two is the
factor's Shapley value.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fgg.attribution.registry import find_method
from fgg.comparison.compared import Compared
from fgg.experiments import experiment_id, is_plain_combined, ungated_id
from fgg.faithfulness.measures import Measure
from fgg.statistics.bootstrap import Interval, Intervals
from fgg.statistics.paired import FEWEST, Row

PARTS = ("order", "values")


def rows(own: Compared, measure: Measure, inside: np.ndarray, about: Row) -> Iterator[Row]:
    """A row per combined gate whose controls ``gate_order`` and ``gate_values`` are in the grid; see `with_intervals`.

    Args:
        inside: the images to use, bool (n,).
    """
    for name, settings in own.experiments.items():
        if not is_plain_combined(settings):
            continue
        gate, base = settings["gate"], find_method(settings["method"]).name
        four = [ungated_id(settings["method"], gate["layers"]), name]
        four += [experiment_id(gate, each, base) for each in ("gate_order", "gate_values")]
        if any(each not in own.experiments for each in four):
            continue
        scores = np.stack([own.values(each, measure.name)[inside] for each in four])
        scores = scores[:, ~np.isnan(scores).any(0)]
        means = scores.mean(1) if scores.shape[1] else np.full(4, np.nan)
        row = own.common | about | {"experiment": name, "n": scores.shape[1]}
        row |= dict(zip(("baseline_mean", "gated_mean", "order_mean", "values_mean"), means.tolist(), strict=True))
        neither, both, order, values = measure.metric.sign * scores
        yield row | _decompose(neither, both, order, values, own.intervals)


def decompose(neither: np.ndarray, both: np.ndarray, order: np.ndarray, values: np.ndarray, seed: int) -> Row:
    """The gains of order and values, from the scores per image (n,) of the four maps; higher scores are better.

    Args:
        neither: TransMM.
        both: the gated map.
        order: the gated order with TransMM's values.
        values: TransMM's order with the gated values.
        seed: seed of the intervals.
    """
    intervals = Intervals(seed)
    found = _decompose(neither, both, order, values, intervals)
    intervals.settle()
    return with_intervals(found)


def with_intervals(row: Row) -> Row:
    """A row of `rows`, after its intervals have been settled, with their ends."""
    for name in PARTS:
        found: Interval = row.pop(f"{name}_interval")
        row |= {f"{name}_low": found.low, f"{name}_high": found.high}
    return row


def _decompose(
    neither: np.ndarray, both: np.ndarray, order: np.ndarray, values: np.ndarray, intervals: Intervals
) -> Row:
    parts = dict(zip(PARTS, ((order - neither, both - values), (values - neither, both - order)), strict=True))
    found: Row = {
        "gain": _mean(both - neither),
        "interaction": _mean(both - neither - (order - neither) - (values - neither)),
    }
    for name, (first, last) in parts.items():
        shapley = (first + last) / 2
        interval, p_value = _tested(shapley, intervals)
        found |= {f"{name}_first": _mean(first), f"{name}_last": _mean(last), name: _mean(shapley)}
        found |= {f"{name}_interval": interval, f"{name}_p": p_value}
    return found


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _tested(values: np.ndarray, intervals: Intervals) -> tuple[Interval, float]:
    """Interval and p-value of a mean; if all values are equal, the interval is that value and the p-value is NaN."""
    from scipy import stats

    if len(values) < FEWEST:
        return Interval(), float("nan")
    if np.ptp(values) <= 0:
        return Interval(float(values[0]), float(values[0])), float("nan")
    return intervals.ask(values), float(stats.ttest_1samp(values, 0).pvalue)
