"""Cost against faithfulness: what each method's map costs, what it gains by each metric, and the Pareto front of both."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from fgg.comparison.verdicts import is_better
from fgg.faithfulness.measures import Measure
from fgg.report.experiment_names import group, label, varies
from fgg.report.figures import style
from fgg.report.figures.dot_plots import unit
from fgg.report.metrics_shown import first_fills, measures_in, rows_of
from fgg.saes.choose_sae import on_front

BACKWARD = 2  # a backward pass takes about as long as two forward passes
COLUMNS = 2  # panels in a row
NAME = 44  # characters in a line of a method's name
GAP = 1.5  # room between methods of different cost, where 1 is the room of a method


def methods_figure(frame: pd.DataFrame, folder: str | Path, known: Mapping[str, Measure] | None = None) -> None:
    """Draw a panel per metric, with its first fill: the mean of every method against its cost, and their Pareto front.

    Methods of the same cost stand side by side, the best on the right. Up is better in every panel. Controls are left
    out; ceilings, floors and maps of known content are drawn, but are no candidates for the front.

    Args:
        frame: the comparison's rows on measurable images.
    """
    first, strength = frame.iloc[0], varies(frame)
    measures = first_fills(measures_in(frame, known))
    tables = {name: _table(rows_of(frame, measure), measure) for name, measure in measures.items()}
    if all(table.empty for table in tables.values()):
        text = "No method has a value by any metric, because no image is measurable with the first fill."
        style.remark(folder, f"{first['dataset']}_methods", f"{first['dataset']}: no faithfulness to draw", text)
        return
    columns = min(COLUMNS, len(measures))
    rows = -(-len(measures) // columns)
    with style.figure(2.15 * rows + 1.35, nrows=rows, ncols=columns, squeeze=False) as (fig, axes):
        for axis in axes.flat[len(measures) :]:
            axis.axis("off")
        for axis, (name, table) in zip(axes.flat, tables.items(), strict=False):
            _panel(axis, table, measures[name], strength, first)
        for axis in axes.flat[max(0, len(measures) - columns) : len(measures)]:
            axis.set_xlabel("cost: passes per image, a band for each cost;\nin a band, the better on the right")
        style.headline(fig, _finding(frame, tables))
        _legend(fig, tables)
        style.save(fig, folder, f"{first['dataset']}_methods")


def cost(rows: pd.DataFrame) -> pd.Series:
    """The cost of each experiment in forward passes per image; NaN where it is unknown."""
    return rows["forward_passes"].astype(float) + BACKWARD * rows["backward_passes"].astype(float)


def _table(rows: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """The methods by a metric, the cheapest first: cost, group, whether on the front, and the place ``x`` on the axis.

    Among those of the same cost, bounds come first and the best comes last; unknown costs come last.
    """
    own = rows.reset_index(drop=True)
    own = own.assign(group=[group(row) for _, row in own.iterrows()], cost=cost(own))
    own = own[(own["group"] != "Controls") & own["mean"].notna()]
    own = own.assign(gain=measure.metric.sign * own["mean"], front=False)
    own = own.assign(rank=own["group"] != "Bounds").sort_values(["cost", "rank", "gain"], kind="stable")
    candidates = own[(own["group"] != "Bounds") & own["cost"].notna()]
    own.loc[candidates.index, "front"] = on_front(candidates["cost"], candidates["gain"])
    steps = own["cost"].fillna(np.inf).ne(own["cost"].fillna(np.inf).shift()).cumsum() - 1
    return own.assign(x=np.arange(len(own)) + GAP * steps)


def _panel(axis: Axes, table: pd.DataFrame, measure: Measure, strength: bool, first: pd.Series) -> None:
    """Draw the methods by a metric, and their front as a step line."""
    if table.empty:
        axis.set(xticks=[], yticks=[], title=measure.metric.short or measure.metric.title)
        axis.annotate("no method has a value", (0.5, 0.5), xycoords="axes fraction", ha="center", color=style.GREY)
        return
    half = style.half_widths(table)
    front = table[table["front"]].drop_duplicates("cost")
    low, high = style.limits(table["mean"], table["mean"] - half, table["mean"] + half)
    room = 0.2 * (high - low)  # for the names of the front's methods
    up = measure.metric.higher_is_better
    axis.set_ylim(*((low, high + room) if up else (high, low - room)))
    for (_, row), width in zip(table.iterrows(), half, strict=True):
        colour, marker = style.BASELINE if row["experiment"] == first["baseline"] else style.GROUP_STYLES[row["group"]]
        face = "white" if row["group"] == "Gated" and row["construction"] != "combined" else colour
        axis.plot([row["x"]] * 2, [row["mean"] - width, row["mean"] + width], color=colour, linewidth=0.9, zorder=2)
        axis.plot(row["x"], row["mean"], marker, markerfacecolor=face, markeredgecolor=colour, zorder=3)
    end = table["x"].max() + 0.8
    axis.step(
        [*front["x"], end],
        [*front["mean"], *front["mean"][-1:]],
        where="post",
        color=style.GREY,
        linewidth=1.0,
        zorder=1,
    )
    for _, row in table[table["front"]].iterrows():
        axis.plot(
            row["x"], row["mean"], "o", markerfacecolor="none", markeredgecolor=style.BLACK, markersize=9, zorder=4
        )
    for _, alike in table[table["front"]].groupby("cost"):
        row, left = alike.iloc[-1], alike["x"].iloc[-1] < table["x"].mean()
        more = f" and {len(alike) - 1} more" if len(alike) > 1 else ""
        axis.annotate(
            textwrap.fill(label(row, strength) + more, NAME), (row["x"], row["mean"] + (half[row.name] if up else -half[row.name])),
            (-4 if left else 4, 3), textcoords="offset points", ha="left" if left else "right", fontsize=7,
        )  # fmt: skip
    _costs(axis, table, end)
    better = "" if up else ", axis inverted"
    axis.set_title(f"{measure.metric.short or measure.metric.title}, n = {table['n_images'].iloc[0]}\n↑ better{better}")
    axis.set_ylabel(unit(measure.metric, first["protocol"]))


def _costs(axis: Axes, table: pd.DataFrame, end: float) -> None:
    """Label the places of each cost, on a band of its own."""
    places = table.groupby(table["cost"].fillna(np.inf))["x"]
    axis.set_xlim(table["x"].min() - 0.8, end)
    names = ["unknown" if np.isinf(own) else f"{own:g} pass{'' if own == 1 else 'es'}" for own in places.mean().index]
    axis.set_xticks((places.min() + places.max()) / 2, names)
    axis.tick_params(axis="x", length=0)
    for number, (low, high) in enumerate(zip(places.min(), places.max(), strict=True)):
        if number % 2 == 0:
            axis.axvspan(
                low - (1 + GAP) / 2, high + (1 + GAP) / 2, color=style.FAINT, alpha=0.6, linewidth=0, zorder=-1
            )


def _finding(frame: pd.DataFrame, tables: Mapping[str, pd.DataFrame]) -> str:
    """The title: by how many metrics a gate is on the front, and by how many of these its gain is significant."""
    first = frame.iloc[0]
    gates = [table[table["front"] & (table["group"] == "Gated")] for table in tables.values()]
    if not any((table["group"] == "Gated").any() for table in tables.values()):
        on = [table[table["front"] & (table["experiment"] == first["baseline"])] for table in tables.values()]
        return (
            f"{first['dataset']}: the baseline is on the Pareto front of cost and faithfulness by "
            f"{_by(sum(len(own) > 0 for own in on), len(tables))}"
        )
    number = sum(len(own) > 0 for own in gates)
    sure = sum(any(is_better(text) for text in own["verdict"]) for own in gates)
    if not number:
        return f"{first['dataset']}: no gate is on the Pareto front of cost and faithfulness, by any metric"
    text = f"{first['dataset']}: a gate is on the Pareto front of cost and faithfulness by {_by(number, len(tables))}, "
    return text + f"significantly better than the baseline by {sure or 'none'}"


def _by(number: int, total: int) -> str:
    return f"{number or 'none'} of {total} metric{'s' * (total != 1)}"


def _legend(fig: Any, tables: Mapping[str, pd.DataFrame]) -> None:
    from matplotlib.lines import Line2D

    first = next(table for table in tables.values() if len(table))
    groups = set(first.loc[first["experiment"] != first["baseline"], "group"])
    looks = {"baseline": (*style.BASELINE, True)}
    looks |= {"other methods": (*style.GROUP_STYLES["Baselines"], True)} if "Baselines" in groups else {}
    if "Gated" in groups:
        combined = first.loc[first["group"] == "Gated", "construction"] == "combined"
        looks |= {"gated, act. × grad.": (*style.GROUP_STYLES["Gated"], True)} if combined.any() else {}
        looks |= {"other gates": (*style.GROUP_STYLES["Gated"], False)} if not combined.all() else {}
    looks |= {"bounds": (*style.GROUP_STYLES["Bounds"], True)} if "Bounds" in groups else {}
    handles = [
        Line2D(
            [], [], color=colour, marker=marker, markerfacecolor=colour if filled else "white", linewidth=0, label=text
        )
        for text, (colour, marker, filled) in looks.items()
    ]
    handles.append(
        Line2D([], [], color=style.GREY, marker="o", markerfacecolor="none", markeredgecolor=style.BLACK, markersize=8,
               label="Pareto front")
    )  # fmt: skip
    text = f"Cost: a backward pass counts as {BACKWARD} forward passes; methods of equal cost stand side by side, the best on "
    text += "the right. Bars: 95 % intervals (t). The front: no other method is as cheap and as good. Bounds cannot be on it."
    fig.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), title=style.lines(text), title_fontsize=7.5,
        columnspacing=1.1, handletextpad=0.3,
    )  # fmt: skip
