"""TransMM raised to powers: the effect of the spread of values on a metric, with the order of the patches unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from fgg.faithfulness.measures import Measure
from fgg.report.experiment_names import label, place, varies
from fgg.report.figures import style
from fgg.report.figures.dot_plots import MOST_FILLS, improvement_interval
from fgg.report.figures.findings import panel_title
from fgg.report.figures.pixel_flipping_curves import combined
from fgg.report.metrics_shown import measures_in, rows_of

POWER = "power"  # the control
MOST_GATES = 4  # of more gates, those that are best most often are drawn
STEP = 0.32  # distance between the gates' intervals, in powers of 2


def powers_figure(frame: pd.DataFrame, folder: str | Path, known: Mapping[str, Measure] | None = None) -> None:
    """Draw a panel per metric and fill: the gain over the baseline against the power of TransMM.

    Each gate by activation x gradient is a level with its interval on the right. All gains are paired and up is better.

    Args:
        frame: the comparison's rows on measurable images.
    """
    first, strength = frame.iloc[0], varies(frame)
    columns: dict[str, list[Measure]] = {}
    for measure in measures_in(frame, known).values():
        columns.setdefault(measure.metric.name, []).append(measure)
    fills = min(MOST_FILLS, max(len(own) for own in columns.values()))
    baseline = label(frame[frame["experiment"] == first["baseline"]].iloc[0])
    drawn = [measure for own in columns.values() for measure in own[:fills]]
    looks = _looks([_gates(rows_of(frame, measure)) for measure in drawn])
    reached = [_reached(rows_of(frame, measure)) for measure in drawn]
    with style.figure(1.85 * fills + 1.25, nrows=fills, ncols=len(columns), squeeze=False) as (fig, axes):
        for number, own in enumerate(columns.values()):
            for axis, measure in zip(axes[:, number], own, strict=False):
                _panel(axis, rows_of(frame, measure), measure, strength, looks)
            for axis in axes[len(own) :, number]:
                axis.axis("off")
            axes[min(len(own), fills) - 1, number].set_xlabel("power")
        for row in axes:
            row[0].set_ylabel(f"gain over {baseline}")
        _legend(fig, axes[0][0], 2 if strength else 3)
        style.headline(fig, _finding(first["dataset"], [own for own in reached if own is not None]))
        style.save(fig, folder, f"{first['dataset']}_powers")


Look = tuple[int, Any, Any, str]  # place, colour, dash and marker


def _looks(panels: Sequence[pd.DataFrame]) -> dict[str, Look]:
    """The gates that are drawn, the same in all panels: all, or of many those that are best in most panels."""
    names = list(dict.fromkeys(name for gates in panels for name in gates["experiment"]))
    best = [gates.loc[gates["improvement"].idxmax(), "experiment"] for gates in panels if len(gates)]
    ranks = pd.concat([gates.set_index("experiment")["improvement"].rank(ascending=False) for gates in panels])
    behind = ranks.groupby(level=0).mean()
    kept = sorted(names, key=lambda name: (-best.count(name), behind[name]))[:MOST_GATES]
    return {
        name: (place, style.GATED_COLOURS[place], style.DASHES[place], "osv^"[place])
        for place, name in enumerate(name for name in names if name in kept)
    }


def _panel(axis: Axes, rows: pd.DataFrame, measure: Measure, strength: bool, looks: Mapping[str, Look]) -> None:
    """Draw the powers as points with bars, and the gates as levels."""
    powers, gates = _powers(rows), _gates(rows)
    gates = gates[gates["experiment"].isin(list(looks))]
    at = powers["power"].to_numpy()
    low, high = improvement_interval(powers, measure.metric)
    axis.vlines(at, low, high, color=style.BLACK, linewidth=0.9)
    axis.plot(at, powers["improvement"], "D-", color=style.BLACK, linewidth=0.9, label="TransMM to a power", zorder=4)
    axis.axhline(0, color=style.GREY, linewidth=0.6, zorder=0)
    for _, row in gates.iterrows():
        number, colour, dash, marker = looks[row["experiment"]]
        axis.axhline(row["improvement"], color=colour, linestyle=dash, linewidth=1.2, zorder=2)
        x = at.max() * 2 ** (STEP * (number + 1.5))
        axis.plot([x, x], improvement_interval(row, measure.metric), color=colour, linewidth=1.1, zorder=3)
        axis.plot(
            x,
            row["improvement"],
            marker,
            color=colour,
            linestyle=dash,
            label=f"gated, {place(row, strength)}",
            zorder=5,
        )
    axis.set(xscale="log", xlim=(at.min() / 1.25, at.max() * 2 ** (STEP * (len(looks) + 1.2))))
    axis.set_xticks(at, [f"{power:g}" for power in at])
    axis.minorticks_off()
    axis.locator_params(axis="y", nbins=5)
    axis.set_title(f"{panel_title(measure)}\nn = {rows['n_images'].iloc[0]}, ↑ better")


def _powers(rows: pd.DataFrame) -> pd.DataFrame:
    """TransMM and its powers, ascending, with the column ``power``; the baseline's own gain is 0."""
    own = rows[(rows["control"] == POWER) | (rows["experiment"] == "transmm")]
    own = own.assign(power=[_power(name) for name in own["experiment"]]).sort_values("power")
    own.loc[own["experiment"] == own["baseline"], ["improvement", "ci_low", "ci_high"]] = 0.0
    return own


def _gates(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[combined(rows) & rows["improvement"].notna()]


def _reached(rows: pd.DataFrame) -> bool | None:
    """Whether some power, or TransMM itself, gains at least as much as every gate; None without gates."""
    gates = _gates(rows)
    return None if gates.empty else bool(_powers(rows)["improvement"].max() >= gates["improvement"].max())


def _finding(dataset: str, reached: list[bool]) -> str:
    """The title: by how many metrics and fills no gate lies above all powers."""
    if not reached:
        return f"{dataset}: what a metric gains by the spread of the values, with the order of the patches unchanged"
    total = len(reached)
    if not any(reached):
        return f"{dataset}: the best gate gains more than TransMM and all its powers by all {total} metrics and fills"
    return (
        f"{dataset}: TransMM or a power of it, which leaves the order unchanged, gains at least as much as the best gate by "
        f"{sum(reached)} of {total} metrics and fills"
    )


def _legend(fig: Any, axis: Axes, columns: int) -> None:
    handles, texts = axis.get_legend_handles_labels()
    note = "Mean gain on the same images, in the metric's unit, with 95 % intervals (BCa). Power 1: TransMM itself. "
    note += "Horizontal lines: the gates, with their intervals on the right."
    fig.legend(
        handles, texts, loc="outside lower center", ncols=columns, title=style.lines(note), title_fontsize=7.5
    )  # fmt: skip


def _power(experiment: str) -> float:
    return 1.0 if experiment == "transmm" else float(experiment.rsplit("-p", 1)[1])
