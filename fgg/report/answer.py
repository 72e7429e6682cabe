"""The answer of a run, short: per dataset a word, three sentences, warnings, and every effect with its interval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from fgg.comparison.pooled import EVERY
from fgg.comparison.strata import ALL, MEASURABLE
from fgg.comparison.verdicts import BETTER, IDENTICAL, UNTESTABLE, WORSE, is_better
from fgg.faithfulness.measures import Measure
from fgg.report.figures.findings import Tally, listed, tally
from fgg.report.headline import CONTROLS, as_one, beats_controls, warnings
from fgg.report.metrics_shown import measures_in, rows_of
from fgg.report.verdict_tables import gated_what, strength

YES, MIXED, NO, UNSHOWN, UNASKED = "Yes", "It depends", "No", "Not shown", "Not asked"
WIDEST = 200.0  # % of the baseline's mean; longer intervals are cut in the drawing, and their numbers are given
STEPS = (1, 2, 3, 5, 10, 15, 20, 30, 50, 75, 100, 150, 200)  # ends of the drawing's axis, %


@dataclass(frozen=True)
class Effect:
    """A gate against TransMM by one measure, on the measurable images. Changes are in % of TransMM's mean, positive = better.

    Attributes:
        gate: what is gated, such as ``1+2``.
        metric, fill: the measure.
        change, low, high: mean and ends of the 95 % interval; None where undefined.
        runs: the change in each run with another seed; empty if there is one run.
        verdict: in words.
        p: adjusted p-value; None where there was no test.
        n: number of images.
        controls: how many of the controls the gate is better than, and how many apply.
        held: whether it is better than every control that can differ from it.
    """

    gate: str
    metric: str
    fill: str
    change: float | None
    low: float | None
    high: float | None
    runs: tuple[float, ...]
    verdict: str
    p: float | None
    n: int
    controls: tuple[int, int]
    held: bool

    @property
    def look(self) -> str:
        """``better``, ``worse``, or empty."""
        return next((word for word in (BETTER, WORSE) if self.verdict.startswith(word)), "")

    @property
    def measure(self) -> str:
        """The metric with its fill."""
        return f"{self.metric}, {self.fill.replace('_', ' ')}" if self.fill else self.metric


@dataclass(frozen=True)
class Answer:
    """What a run says about one dataset.

    Attributes:
        dataset: its name, or `fgg.comparison.pooled.EVERY`.
        word: the answer in a word or two.
        sentences: at most three.
        warnings: what weakens the answer.
        effects: ordered by measure.
    """

    dataset: str
    word: str
    sentences: Sequence[str]
    warnings: Sequence[str] = ()
    effects: Sequence[Effect] = field(default=())

    @property
    def reach(self) -> float:
        """The end of an axis that shows all intervals, at most `WIDEST`, in %."""
        ends = [abs(end) for own in self.effects for end in (own.low, own.high, *own.runs) if end is not None]
        return float(next((step for step in STEPS if step >= max(ends, default=1.0)), WIDEST))


def answers(
    hypotheses: pd.DataFrame, known: Mapping[str, Measure] | None = None, pooled: pd.DataFrame | None = None
) -> Iterator[Answer]:
    """The answer of every dataset, and with several datasets that of all together.

    Args:
        hypotheses: the table of hypotheses of one run or several.
        known: the measures by name, including those of metrics of other packages.
        pooled: the pooled table, if there are several runs.
    """
    for dataset, runs in hypotheses.groupby("dataset", sort=False):
        several = pooled is not None and runs["seed"].nunique() > 1
        frame = as_one(pooled, runs, str(dataset)) if several else runs
        yield _answer(str(dataset), runs, frame, measures_in(runs, known))
    if pooled is not None and hypotheses["dataset"].nunique() > 1:
        frame = as_one(pooled, hypotheses.assign(dataset=EVERY), EVERY)
        yield _answer(EVERY, hypotheses, frame, measures_in(hypotheses, known))


def unasked(dataset: str, runs: pd.DataFrame) -> Answer:
    """The answer of a dataset whose grid has no combined gate; ``runs`` are its rows of the comparison."""
    text = (
        "The grid has no gate by activation × gradient, so the question was not asked; the tables compare the methods."
    )
    return Answer(dataset, UNASKED, (text,), warnings(runs))


def _answer(dataset: str, runs: pd.DataFrame, frame: pd.DataFrame, measures: Mapping[str, Measure]) -> Answer:
    effects = list(_effects(runs, frame, measures))
    if not effects:
        return Answer(dataset, UNASKED, ("TransMM is not in the grid, so no gate was compared with it.",))
    said = tally(pd.Series([own.verdict for own in effects]))
    held = sum(own.held for own in effects if is_better(own.verdict))
    sentences = (_count(effects, said, held), _largest(effects), _reach(runs))
    return Answer(dataset, _word(said, held), [text for text in sentences if text], warnings(runs), effects)


def _word(said: Tally, held: int) -> str:
    if said.better:
        return YES if held == said.better and not said.worse else MIXED
    return NO if said.worse else UNSHOWN


def _effects(runs: pd.DataFrame, frame: pd.DataFrame, measures: Mapping[str, Measure]) -> Iterator[Effect]:
    shown, single = (table[table["stratum"] == MEASURABLE] for table in (frame, runs))
    for measure in measures.values():
        rows, of_runs = rows_of(shown, measure), rows_of(single, measure)
        for row in rows[rows["against"] == "transmm"].to_dict("records"):
            gate = rows[rows["experiment"] == row["experiment"]]
            controls = gate[gate["against"].isin(CONTROLS)]
            controls = controls[(controls["verdict"] != IDENTICAL) & ~controls["verdict"].str.startswith(UNTESTABLE)]
            own = of_runs[(of_runs["experiment"] == row["experiment"]) & (of_runs["against"] == "transmm")]
            change, low, high = _percent(row, measure)
            yield Effect(
                gated_what(pd.Series(row)) + strength(pd.Series(row), runs), measure.metric.title, measure.fill, change, low, high,
                tuple(own["improvement_pct"].dropna()) if len(own) > 1 else (), row["verdict"],
                None if pd.isna(row["p_adjusted"]) else float(row["p_adjusted"]),
                int(own["n"].sum()), (int(controls["verdict"].str.startswith(BETTER).sum()), len(controls)), beats_controls(gate),
            )  # fmt: skip


def _percent(row: Mapping[str, Any], measure: Measure) -> tuple[float | None, float | None, float | None]:
    """Change and interval in % of the partner's mean. Pooled rows hold improvements; others, differences of scores."""
    reference = abs(row["partner_mean"])
    if not reference or pd.isna(row["improvement_pct"]):
        return None, None, None
    sign = 1.0 if "n_runs" in row else float(measure.metric.sign)
    low, high = sorted(100 * sign * row[name] / reference for name in ("ci_low", "ci_high"))
    if pd.isna(low) or pd.isna(high):
        return float(row["improvement_pct"]), None, None
    return float(row["improvement_pct"]), float(low), float(high)


def _count(effects: Sequence[Effect], said: Tally, held: int) -> str:
    untested = sum(own.verdict.startswith(UNTESTABLE) for own in effects)
    rest = said.total - said.better - said.qualified - said.worse - untested
    fills = len({own.fill for own in effects} - {""})
    asked = [_many(len({own.gate for own in effects}), "gate") + " against TransMM"]
    asked += [_many(len({own.metric for own in effects}), "metric"), *([_many(fills, "fill")] if fills else [])]
    found = [f"better in {said.better} of {_many(said.total, 'comparison')}"]
    if said.qualified:
        found.append(
            f"better in values only in {said.qualified} (the spread of the values, not the order of the patches)"
        )
    found.append(f"worse in {said.worse}")
    if untested:
        found.append(f"not testable in {untested}")
    if rest:
        found.append(f"no difference shown in {rest}")
    text = f"{', '.join(asked)}: {', '.join(found)}"
    if said.better:
        text += f". Every control is beaten too in {held} of these {said.better}" if said.better > 1 else (
            f". Every control is {'' if held else 'not '}beaten too there"
        )  # fmt: skip
    return f"{text}."


def _largest(effects: Sequence[Effect]) -> str:
    known = [own for own in effects if own.change is not None]
    if not known:
        return ""
    best, worst = max(known, key=_change), min(known, key=_change)
    if len(known) == 1:
        return f"The change is {_said(best)}."
    if _change(best) > 0 > _change(worst):
        return f"The largest gain is {_said(best)}; the largest loss is {_said(worst)}."
    return f"Changes run from {_said(worst)} to {_said(best)}."


def _change(own: Effect) -> float:
    return own.change or 0.0


def _said(own: Effect) -> str:
    return f"{signed(own.change)} % ({own.measure}, layers {own.gate}: {own.verdict})"


def _reach(runs: pd.DataFrame) -> str:
    whole = runs[(runs["stratum"] == ALL) & (runs["fill"].fillna("") != "")].drop_duplicates(
        ["dataset", "seed", "fill"]
    )
    parts = [
        f"{own['n_measurable'].sum()} of {own['n_images'].sum()} images (fill {str(fill).replace('_', ' ')})"
        for fill, own in whole.groupby("fill", sort=False)
    ]
    number = len(runs[["dataset", "seed"]].drop_duplicates())
    text = f"Verdicts rest on {listed(parts)}" if parts else f"Verdicts rest on {runs['n'].max()} images"
    text += f", in {_many(number, 'run')}" + (
        " with another split, model and SAEs each" if number > 1 else " with one seed"
    )
    smallest = runs.loc[(runs["stratum"] == MEASURABLE) & (runs["n"] > 0), "smallest_detectable"].median()
    if pd.isna(smallest):
        return f"{text}."
    missed = (
        f"an effect below {smallest:.2f} standard deviations would often be missed{' in a run' if number > 1 else ''}"
    )
    return f"{text}; {missed}."


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def signed(value: float | None, digits: int = 1) -> str:
    """A number with its sign; a dash where there is none."""
    return "–" if value is None else f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")
