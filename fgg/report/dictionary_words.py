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
    shown = {name: rows_of(rows, measure) for name, measure in measures.items()}
    parts = []
    for kind in kinds:
        counts, where = {BETTER: 0, WORSE: 0}, []
        for name, own in shown.items():
            verdicts = own.loc[own["against"] == kind, "verdict"]
            for word in counts:
                found = int(verdicts.str.startswith(word).sum())
                counts[word] += found
                where += [f"{word} {found} times by {measures[name].title}"] * bool(found)
        total = sum(int((own["against"] == kind).sum()) for own in shown.values())
        details = f" ({', '.join(where)})" if where else ""
        parts.append(f"{PARTNER_TITLES[kind]} {counts[BETTER]} better, {counts[WORSE]} worse of {total}{details}")
    gates = [gate for own in shown.values() for _, gate in own.groupby("experiment", sort=False)]
    better_than_all = sum(bool(gate["verdict"].str.startswith(BETTER).all()) for gate in gates)
    number = rows["experiment"].nunique()
    yield (
        f"- does a learnt dictionary matter? {number} gate{'s' if number > 1 else ''} of SAE features against the same gate "
        f"made of features that were not learnt, by all metrics and fills: {'; '.join(parts)}. Learnt features are better than "
        f"all of these in {better_than_all} of {len(gates)} comparisons."
    )
