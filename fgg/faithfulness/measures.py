"""A measure is a metric with a fill; it has one column of scores. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fgg.faithfulness.registry import Metric, chosen, switched_on


@dataclass(frozen=True)
class Measure:
    """A metric with a fill.

    Attributes:
        metric: the metric.
        fill: its name in the configuration; empty for a metric that perturbs nothing.
        suffix: suffix of the metric's columns with this fill; empty for the first fill.
        alone: whether it is the metric's only fill.
    """

    metric: Metric
    fill: str = ""
    suffix: str = ""
    alone: bool = True

    def column(self, name: str) -> str:
        """The name, with this fill, of a column of the metric such as ``saco_equal_drops``."""
        return name + self.suffix

    @property
    def name(self) -> str:
        """The column of the scores, such as ``saco`` or ``saco@removal``; it is also the name of the measure."""
        return self.column(self.metric.name)

    @property
    def error_column(self) -> str | None:
        """The column with the standard error of each score due to random draws; None if the metric draws nothing."""
        own = self.metric.error_column
        return own and self.column(own)

    @property
    def title(self) -> str:
        """The metric's title, with the fill if there are several."""
        return self.metric.title + self._note

    @property
    def short(self) -> str:
        """A shorter title, for places with little room."""
        return (self.metric.short or self.metric.title) + self._note

    @property
    def _note(self) -> str:
        return "" if self.alone else f" ({self.fill.replace('_', ' ')})"


def measures(fills: Mapping[str, Sequence[str]]) -> dict[str, Measure]:
    """The measures of a dataset by name, from the references of its metrics and their fills.

    Raises:
        FggError: an unknown metric.
    """
    found = {}
    for metric in chosen(fills).values():
        own = fills[metric.reference]
        for place, fill in enumerate(own or [""]):
            measure = Measure(metric, fill, f"@{fill}" if place else "", len(own) < 2)
            found[measure.name] = measure
    return found


def fills_of(settings: Mapping[str, Any]) -> dict[str, list[str]]:
    """Reference of a metric -> its fills, from a configuration's ``metrics``; a metric that perturbs nothing has none.

    Raises:
        FggError: an unknown metric.
    """
    found = {}
    for metric in chosen(switched_on(settings)).values():
        own = settings[metric.reference].get("fill")
        own = settings.get("fills", ["mean"]) if own is None else own if isinstance(own, list) else [own]
        found[metric.reference] = [spelled(fill) for fill in own] if metric.perturbs else []
    return found


def all_fills(fills: Mapping[str, Iterable[str]]) -> list[str]:
    """The fills of any metric, each once, in the order of their first use."""
    return list(dict.fromkeys(fill for own in fills.values() for fill in own))


def spelled(fill: str | float) -> str:
    """A fill's name in the tables; numbers are in their shortest form."""
    return fill if isinstance(fill, str) else f"{float(fill):g}"
