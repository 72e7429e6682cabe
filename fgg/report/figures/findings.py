"""What the titles of figures and panels say: counts of verdicts, read from the rows that are drawn, and names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from fgg.comparison.verdicts import BETTER, WORSE, is_better
from fgg.faithfulness.measures import Measure


class Tally(NamedTuple):
    """How many comparisons came out which way.

    Attributes:
        better: better without qualification.
        qualified: better, but by the values of the map alone, or without being told apart from them.
        worse: worse, with or without qualification.
        total: all comparisons.
    """

    better: int
    qualified: int
    worse: int
    total: int

    def __str__(self) -> str:
        """Such as ``of 16 comparisons, 2 are better, 1 is better in values only, 3 are worse``."""
        parts = [f"{count(self.better)} better"]
        parts += [f"{count(self.qualified)} better in values only"] if self.qualified else []
        parts.append(f"{count(self.worse)} worse")
        return f"of {self.total} comparison{'s' * (self.total != 1)}, {listed(parts)}"


def tally(verdicts: pd.Series) -> Tally:
    """Count verdicts, as `fgg.comparison.verdicts.verdict` words them."""
    better = sum(is_better(text) for text in verdicts)
    qualified = int(verdicts.str.startswith(BETTER).sum()) - better
    return Tally(better, qualified, int(verdicts.str.startswith(WORSE).sum()), len(verdicts))


def count(number: int) -> str:
    """A number with the verb that fits: ``none is``, ``1 is``, ``2 are``."""
    return {0: "none is", 1: "1 is"}.get(number, f"{number} are")


def listed(names: Sequence[str]) -> str:
    """Names in a row: ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def panel_title(measure: Measure) -> str:
    """The metric of a panel and, in a second line, its fill."""
    name = measure.metric.short or measure.metric.title
    return f"{name}\nfill {measure.fill.replace('_', ' ')}" if measure.fill else name
