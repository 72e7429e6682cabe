"""A forest plot: how far each method and each gate lies from the baseline, by every metric and fill, in every seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from fgg.comparison.verdicts import BETTER, WORSE
from fgg.faithfulness.measures import Measure
from fgg.report.experiment_names import GROUPS, group, label, place, varies
from fgg.report.figures import style
from fgg.report.figures.dot_plots import MOST_FILLS, Line, arrange, improvement_interval, sections, ticks
from fgg.report.figures.findings import panel_title, tally
from fgg.report.metrics_shown import measures_in, rows_of

MOST_INTERVALS = 6  # with more seeds, a seed is a dot without its interval
MARK = 0.46  # height of a mark in a line with several, where 1 is a line with one
SEED_SIZE, POOLED_SIZE = 3.0, 6.0


def forest_figure(
    runs: pd.DataFrame,
    seed: str,
    folder: str | Path,
    known: Mapping[str, Measure] | None = None,
    pooled: pd.DataFrame | None = None,
) -> None:
    """Draw a panel per metric and fill, and in it a line per method or gate: its improvement over the baseline.

    With several seeds a line holds a mark per seed and, if it is known, the pooled one. Controls are left out. The gates
    determine the axis; what lies beyond it is an arrow with the number.

    Args:
        runs: the comparison's rows on measurable images, of all seeds of a dataset.
        seed: the seed whose rows name the lines.
        pooled: rows of ``pooled.csv`` on measurable images.
    """
    others = runs[runs["experiment"] != runs["baseline"]]
    others = others[np.array([group(row) != "Controls" for _, row in others.iterrows()], dtype=bool)]
    first = runs.iloc[0]
    name = f"{first['dataset']}_forest"
    named = others[others["seed"] == seed]
    if named.empty:
        text = f"The grid of experiments holds {first['baseline']} alone, so there is no difference from it."
        style.remark(folder, name, f"{first['dataset']}: no differences to draw", text)
        return
    grid = _grid(measures_in(named, known))
    drawn = [measure for row in grid for measure in row if measure is not None]
    others = pd.concat([rows_of(others, measure) for measure in drawn])
    seeds = sorted(dict.fromkeys(others["seed"]), key=lambda own: (own != seed, len(own), own))
    together = _pooled_rows(pooled, others, len(seeds))
    if together is not None:
        together = pd.concat([rows_of(together, measure) for measure in drawn])
    lines = arrange(_sections(rows_of(named, grid[0][0]).assign(n=lambda rows: rows["n_images"])))
    shifts = _shifts(len(seeds), together is not None)
    room = 1.0 if len(shifts) < 2 else shifts[0] - shifts[-1] + 2 * MARK
    lines = _spread(lines, room)
    bottom = lines[-1][0] - 0.5 * room - 0.3
    height = (0.8 - bottom) * style.ROW * len(grid) + 0.85 * len(grid) + 1.2
    with style.figure(height, nrows=len(grid), ncols=len(grid[0]), squeeze=False) as (fig, panels):
        for axes, row in zip(panels, grid, strict=True):
            present = [axis for axis, measure in zip(axes, row, strict=True) if measure is not None]
            ticks(present, lines)
            present[0].set_ylim(bottom, 0.8)
            for axis, measure in zip(axes, row, strict=True):
                if measure is None:
                    axis.axis("off")
                    continue
                _panel(axis, lines, rows_of(others, measure), seeds, _of_measure(together, measure), shifts, measure)
                axis.locator_params(axis="x", nbins=2 if len(row) > 3 else 5)
                axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
                if axis is not present[0]:
                    axis.set_yticks([])
                    axis.set_ylim(bottom, 0.8)
        style.headline(fig, _finding(runs, others, together, len(seeds)))
        _legend(fig, others, len(seeds), together is not None)
        style.save(fig, folder, name)


def _sections(rows: pd.DataFrame) -> list[tuple[str, list[tuple[str, Any]]]]:
    """The rows in sections; gates of one construction on different layers, or of different strength, share one."""
    found = sections(rows)
    gated = [own for heading, own in found if heading.startswith("Gated")]
    kinds = {text for own in gated for text, _ in own}
    if len(gated) < 2 or len(kinds) > 1 or any(len(own) > 1 for own in gated):
        return found
    strength = varies(rows)
    together = (f"Gated, {kinds.pop()}", [(place(row, strength), row) for own in gated for _, row in own])
    rest = [(heading, own) for heading, own in found if not heading.startswith("Gated")]
    return sorted([*rest, together], key=lambda section: GROUPS.index(section[0].split(", ")[0]))


def _grid(measures: Mapping[str, Measure]) -> list[list[Any]]:
    """The measures in rows of fills and columns of metrics; None where a metric has fewer fills."""
    columns: dict[str, list[Measure]] = {}
    for measure in measures.values():
        columns.setdefault(measure.metric.name, []).append(measure)
    rows = min(MOST_FILLS, max(len(own) for own in columns.values()))
    return [[own[place] if place < len(own) else None for own in columns.values()] for place in range(rows)]


def _shifts(seeds: int, pooled: bool) -> np.ndarray:
    """The height of each mark within its line, the pooled one last; dots without intervals share a height."""
    if seeds > MOST_INTERVALS:
        return MARK * np.r_[np.full(seeds, 0.5 * pooled), np.full(int(pooled), -0.5)]
    marks = seeds + pooled
    return MARK * ((marks - 1) / 2 - np.arange(marks))


def _spread(lines: Sequence[Line], room: float) -> list[Line]:
    """The lines with their heights changed so that each row, but no heading, takes the given room."""
    found: list[Line] = []
    y = 0.0
    for _, text, row in lines:
        half = 0.5 * (1.0 if row is None else room)
        y -= half + (0.35 if row is None and found else 0.0)
        found.append((y + 0.5, text, row))
        y -= half
    return found


def _pooled_rows(pooled: pd.DataFrame | None, others: pd.DataFrame, seeds: int) -> pd.DataFrame | None:
    """The pooled rows of these experiments; None if nothing is pooled over several seeds."""
    if pooled is None or seeds < 2:
        return None
    own = pooled[pooled["experiment"].isin(others["experiment"]) & (pooled["n_runs"] > 1)]
    return None if own.empty else own


def _of_measure(pooled: pd.DataFrame | None, measure: Measure) -> pd.DataFrame | None:
    return None if pooled is None else rows_of(pooled, measure).set_index("experiment")


def _panel(
    axis: Axes,
    lines: Sequence[Line],
    own: pd.DataFrame,
    seeds: Sequence[str],
    pooled: pd.DataFrame | None,
    shifts: np.ndarray,
    measure: Measure,
) -> None:
    """Draw the differences by a measure."""
    scale = own[own["construction"].notna()] if own["construction"].notna().any() else own
    ends = improvement_interval(scale, measure.metric) if len(seeds) <= MOST_INTERVALS else ()
    middle = [] if pooled is None else pooled["mean"][pooled.index.isin(scale["experiment"])]
    axis.set_xlim(*style.limits(0, scale["improvement"], *ends, middle))
    axis.axvline(0, color=style.BLACK, linewidth=0.8, zorder=1)
    if own["improvement"].isna().all():
        axis.annotate("undefined", (0.5, 0.5), xycoords="axes fraction", ha="center", color=style.GREY)
    by_run = own.set_index(["experiment", "seed"])
    for y, _, line in lines:
        if line is None:
            continue
        name, look = line["experiment"], style.GROUP_STYLES[group(line)]
        for seed, shift in zip(seeds, shifts, strict=False):
            if (name, seed) in by_run.index:
                _seed(axis, y + shift, by_run.loc[(name, seed)], measure, look, len(seeds))
        if pooled is not None and name in pooled.index:
            _together(axis, y + shifts[-1], pooled.loc[name], look[0])
    n = own.loc[own["seed"] == seeds[0], "n_images"].iloc[0] if (own["seed"] == seeds[0]).any() else 0
    images = f"n = {n}" if own["n_images"].nunique() < 2 else f"n = {own['n_images'].min()} to {own['n_images'].max()}"
    axis.set_title(f"{panel_title(measure)}\n{images}, better →")


def _seed(axis: Axes, y: float, row: pd.Series, measure: Measure, look: tuple[str, str], seeds: int) -> None:
    """Draw the mark of one seed; of several seeds beyond the axis there are only the arrows."""
    value, sure = row["improvement"], row["verdict"] in (BETTER, WORSE)
    low, high = improvement_interval(row, measure.metric) if seeds <= MOST_INTERVALS else (value, value)
    before, written = len(axis.lines), len(axis.texts)
    style.interval(axis, y, value, low, high, look, sure)
    if seeds > 1:
        for drawn in axis.lines[before:]:
            drawn.set_markersize(SEED_SIZE)
            drawn.set_linewidth(0.8)
        for text in list(axis.texts)[written:]:
            text.remove()


def _together(axis: Axes, y: float, row: pd.Series, colour: str) -> None:
    """Draw the pooled mark, with its interval and, thin, the interval for a further seed."""
    look, sure = (colour, "D"), row["verdict"] in (BETTER, WORSE)
    before = len(axis.lines)
    if style.beyond(axis, row["mean"]) is None:
        ends = np.clip([row["prediction_low"], row["prediction_high"]], *axis.get_xlim())
        axis.plot(ends, [y, y], color=style.GREY, linewidth=0.7, linestyle=(0, (1, 1)), zorder=1)
    style.interval(axis, y, row["mean"], row["ci_low"], row["ci_high"], look, sure)
    for drawn in axis.lines[before + 1 :]:
        if drawn.get_marker() == "D":
            drawn.set_markersize(POOLED_SIZE)
        elif drawn.get_marker() in ("None", ""):
            drawn.set_linewidth(1.9)


def _finding(runs: pd.DataFrame, others: pd.DataFrame, pooled: pd.DataFrame | None, seeds: int) -> str:
    """The title: how many comparisons of gates with the baseline are better, and how many worse."""
    first = runs.iloc[0]
    gates = others[others["construction"].notna()]
    whose, rows = ("gate", gates) if len(gates) else ("method", others)
    baseline = label(runs[runs["experiment"] == first["baseline"]].iloc[0])
    judged = rows if pooled is None else pooled[pooled["experiment"].isin(rows["experiment"])]
    over = "" if seeds < 2 else f" (pooled over {seeds} seeds)" if pooled is not None else f" (in {seeds} seeds)"
    number = rows["experiment"].nunique()
    return f"{first['dataset']}: {number} {whose}{'s' * (number != 1)} against {baseline}{over}: {tally(judged['verdict'])}"


def _legend(fig: Any, others: pd.DataFrame, seeds: int, pooled: bool) -> None:
    from matplotlib.lines import Line2D

    present = {group(row) for _, row in others.drop_duplicates("experiment").iterrows()}
    handles = [
        Line2D([], [], color=colour, marker=marker, linewidth=1.1, label=text)
        for text, (colour, marker) in style.GROUP_STYLES.items()
        if text in present
    ]
    text = "Improvement over the baseline on the same images, in the metric's unit; black line: no difference. Bars: "
    text += "95 % intervals (BCa). " if seeds <= MOST_INTERVALS else "95 % intervals. "
    if pooled:
        handles.append(Line2D([], [], color=style.BLACK, marker="D", linewidth=1.9, label="pooled over seeds"))
        handles.append(
            Line2D([], [], color=style.GREY, linewidth=0.7, linestyle=(0, (1, 1)), label="prediction interval")
        )
        text += "Pooled by random effects (Hartung-Knapp). "
    text += "Filled: p < 0.05 after Holm, and not by the values alone. An arrow: beyond the axis. Controls are in the figures of single metrics."
    fig.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), title=style.lines(text), title_fontsize=7.5
    )
