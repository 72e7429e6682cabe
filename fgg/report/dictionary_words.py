"""Whether the gate gains from features that were learnt, in words: against the same gate made of features that were not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from fgg.catalogue import DICTIONARIES
from fgg.comparison.strata import MEASURABLE
from fgg.comparison.verdicts import BETTER, WORSE
from fgg.faithfulness.measures import Measure
from fgg.report.experiment_names import PARTNER_TITLES
from fgg.report.metrics_shown import rows_of

UNLEARNT = tuple(against for against, _ in DICTIONARIES.values())


def dictionary_words(frame: pd.DataFrame, measures: Mapping[str, Measure]) -> Iterator[str]:
    """Lines of Markdown from rows of hypotheses.csv or pooled.csv; none without such controls.

    Differences in values count too, since the question is whether learning matters at all.
    """
    rows = frame[frame["against"].isin(UNLEARNT) & (frame["stratum"] == MEASURABLE)]
    if rows.empty:
        return
    kinds = [kind for kind in UNLEARNT if (rows["against"] == kind).any()]
    parts = []
    better_than_all = tested = 0
    for measure in measures.values():
        own = rows_of(rows, measure)
        counts = []
        for kind in kinds:
            verdicts = own.loc[own["against"] == kind, "verdict"]
            better, worse = (int(verdicts.str.startswith(word).sum()) for word in (BETTER, WORSE))
            counts.append(f"{PARTNER_TITLES[kind]} {better} better, {worse} worse")
        parts.append(f"{measure.title}: {', '.join(counts)}")
        for _, gate in own.groupby("experiment", sort=False):
            tested += 1
            better_than_all += bool(gate["verdict"].str.startswith(BETTER).all())
    number = rows["experiment"].nunique()
    yield (
        f"- does a learnt dictionary matter? {number} gate{'s' if number > 1 else ''} of SAE features against the same gate "
        f"made of features that were not learnt: {'; '.join(parts)}. Learnt features are better than all of these in "
        f"{better_than_all} of {tested} comparisons (gates x metrics x fills)."
    )
