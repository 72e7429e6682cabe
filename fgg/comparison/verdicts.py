"""Adjustment for multiple tests, and verdicts in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fgg.statistics.paired import Row, holm
from fgg.statistics.power import ALPHA

P_VALUES = {
    "p_value": "p_adjusted",
    "wilcoxon_p": "wilcoxon_p_adjusted",
    "equivalence_p": "equivalence_p_adjusted",
    "order_p_value": "order_p_adjusted",
}
WHOLE_FAMILY = ("dataset", "seed", "stratum", "fill")  # another fill is a check of the result, not a further test
UNGATED = "ungated"  # the partner of a gate on a method other than TransMM
BETTER, WORSE, SAME, UNSHOWN = "better", "worse", "equivalent", "no difference shown"
IDENTICAL, UNTESTABLE = "identical scores", "not testable"


def adjust(rows: Sequence[Row], family: str) -> None:
    """Add the Holm-adjusted p-values, ``significant`` and the verdict to the rows.

    Args:
        family: ``all``, which adjusts the tests of all metrics together, or ``metric``, which adjusts those of each
            alone.
    """
    keys = WHOLE_FAMILY + (("metric",) if family == "metric" else ())
    families: dict[tuple, list[Row]] = {}
    for row in rows:
        families.setdefault(tuple(row[name] for name in keys), []).append(row)
    for members in families.values():
        for source, target in P_VALUES.items():
            for row, adjusted in zip(members, holm([row[source] for row in members]), strict=True):
                row[target] = float(adjusted)
    for row in rows:
        row["significant"] = bool(row["p_adjusted"] < ALPHA)
        row["verdict"] = verdict(row)


def verdict(row: Mapping) -> str:
    """A comparison's result in words.

    ``better`` or ``worse`` if the difference is significant. ``in values`` is added if the metric reads values and the
    order alone makes no significant difference in the same direction; ``(order and values not told apart)`` is added if
    that is not known. ``equivalent`` if the difference is shown to be small, otherwise ``no difference shown``. Other
    verdicts are ``identical scores``, ``not testable: …`` and ``the baseline``.
    """
    if np.isnan(row["p_value"]):
        reason = row["reason"]
        return reason if reason in (IDENTICAL, "the baseline") else f"{UNTESTABLE}: {reason}"
    if row["significant"]:
        return (BETTER if row["improvement"] > 0 else WORSE) + _by_values(row)
    return SAME if row["equivalence_p_adjusted"] < ALPHA else UNSHOWN


def _by_values(row: Mapping) -> str:
    if not row["told_apart"]:
        return " (order and values not told apart)"
    if np.isnan(row["order_difference"]):
        return ""
    agrees = row["order_p_adjusted"] < ALPHA and row["order_difference"] * row["difference"] > 0
    return "" if agrees else " in values"


def is_better(verdict: str) -> bool:
    """Whether a verdict says better without qualification."""
    return verdict == BETTER
