"""All methods: what their maps cost, and how faithful they are by each metric."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from fgg.faithfulness.measures import Measure
from fgg.report.experiment_names import group, kind, label, place, varies
from fgg.report.figures import style
from fgg.report.figures.dot_plots import arrange, ticks
from fgg.report.metrics_shown import first_fills, measures_in, rows_of

BACKWARD = 2  # a backward pass takes about as long as two forward passes
HEADINGS = {"Baselines": "Methods, cheapest first", "Gated": "Gated, cheapest first", "Bounds": "Bounds and known maps"}


def methods_figure(frame: pd.DataFrame, folder: str | Path, known: Mapping[str, Measure] | None = None) -> None:
    """Draw a line per method, without controls: its cost, and its mean by each metric with the metric's first fill.

    Ceilings, floors and maps of known content stand in a section of their own.

    Args:
        frame: the comparison's rows on measurable images.
    """
    first, strength = frame.iloc[0], varies(frame)
    measures = first_fills(measures_in(frame, known))
    rows = rows_of(frame, next(iter(measures.values())))
    rows = rows.assign(group=[group(row) for _, row in rows.iterrows()], cost=cost(rows))
    rows = rows[rows["group"] != "Controls"].sort_values("cost", kind="stable", na_position="last")
    sections = [
        (text, [(_name(row, strength), row) for _, row in rows[rows["group"] == name].iterrows()])
        for name, text in HEADINGS.items()
    ]
    lines = arrange(sections)
    panels = 1 + len(measures)
    with style.figure(len(lines) * style.ROW + 1.3, ncols=panels, sharey=True) as (fig, (left, *others)):
        ticks((left, *others), lines)
        left.set_xscale("log")
        left.set_title("Cost ↓")
        for y, _, row in lines:
            if row is not None and np.isfinite(row["cost"]):
                colour, marker = _look(row, first["baseline"])
                left.plot([row["cost"]], [y], marker, color=colour)
        for axis, measure in zip(others, measures.values(), strict=True):
            own = rows_of(frame, measure).set_index("experiment")
            half = style.half_widths(own)
            shown = own["mean"][own.index.isin(rows["experiment"])]
            axis.set_xlim(*style.limits(shown, margin=0.12))
            axis.locator_params(axis="x", nbins=2)
            title = textwrap.fill(measure.metric.short or measure.metric.title, 9, break_long_words=False)
            axis.set_title(f"{title} {'↑' if measure.metric.higher_is_better else '↓'}")
            axis.axvline(own.loc[first["baseline"], "mean"], color=style.BLACK, linewidth=0.8, linestyle=":", zorder=1)
            for y, _, row in lines:
                if row is not None:
                    mean, width = own.loc[row["experiment"], "mean"], half.loc[row["experiment"]]
                    style.interval(axis, y, mean, mean - width, mean + width, _look(row, first["baseline"]))
        fig.suptitle(
            f"{first['dataset']}: faithfulness against cost, {first['n_images']} measurable images", weight="bold"
        )
        style.note(
            fig,
            f"Arrows: which direction is better. Cost: forward passes per image; a backward pass counts as {BACKWARD}. Bars: 95 % intervals (t). Dotted: the baseline, "
            f"{first['baseline']}. A ceiling is built from what a metric itself measures, so no method is expected to pass it.",
        )
        style.save(fig, folder, f"{first['dataset']}_methods")


def _name(row: pd.Series, strength: bool) -> str:
    """A line's name; the section says whether it is gated."""
    return f"{place(row, strength)}, {kind(row)}" if group(row) == "Gated" else label(row, strength)


def cost(rows: pd.DataFrame) -> pd.Series:
    """The cost of each experiment in forward passes per image; NaN where it is unknown."""
    return rows["forward_passes"].astype(float) + BACKWARD * rows["backward_passes"].astype(float)


def _look(row: pd.Series, baseline: str) -> tuple[str, str]:
    return style.BASELINE if row["experiment"] == baseline else style.GROUP_STYLES[group(row)]
