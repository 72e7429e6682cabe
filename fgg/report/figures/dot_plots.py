"""Dot plots with intervals: all experiments by one metric, and the hypotheses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fgg.faithfulness.registry import Metric
from fgg.report.experiment_names import GROUPS, PARTNER_TITLES, group, kind, label, place, varies
from fgg.report.figures import style
from fgg.report.metrics_shown import metrics_in
from fgg.statistics.bootstrap import LEVEL

Line = tuple[float, str, Any]  # height, text, and the row (a pandas Series), or None for a heading


def arrange(sections: Sequence[tuple[str, list[tuple[str, pd.Series]]]]) -> list[Line]:
    """Heights for sections of (text, row) lines, top down from 0, each under a heading; empty ones are left out."""
    lines: list[Line] = []
    y = 0.0
    for heading, rows in sections:
        if rows:
            lines.append((y, heading, None))
            lines += [(y - 1 - i, text, row) for i, (text, row) in enumerate(rows)]
            y -= len(rows) + 1.35
    return lines


def sections(frame: pd.DataFrame) -> list[tuple[str, list[tuple[str, pd.Series]]]]:
    """A metric's rows by group, and within the gated and the controls by where they gate."""
    strength = varies(frame)
    found: dict[tuple[str, str], list] = {}
    for _, row in frame.iterrows():
        text = kind(row) + (f" (n = {row['n']})" if row["n"] < row["n_images"] else "")
        found.setdefault((group(row), place(row, strength)), []).append((text, row))
    ordered = sorted(found, key=lambda key: GROUPS.index(key[0]))  # stable: the configuration's order within a group
    return [(", ".join(filter(None, key)), found[key]) for key in ordered]


def metric_figure(frame: pd.DataFrame, metric: Metric, folder: str | Path) -> None:
    """Means of all methods on the left, paired improvements over the baseline on the right."""
    from scipy import stats

    first = frame.iloc[0]
    baseline = frame[frame["experiment"] == first["baseline"]].iloc[0]
    lines = arrange(sections(frame))
    gated = frame[frame["construction"].notna() & (frame["experiment"] != baseline["experiment"])]
    scale = gated if len(gated) else frame
    with style.figure(len(lines) * style.ROW + 1.45, ncols=2, sharey=True) as (fig, (left, right)):
        half = frame["sem"] * stats.t.ppf((1 + LEVEL) / 2, (frame["n"] - 1).clip(lower=1))
        left.set_xlim(*style.limits(frame["mean"], frame["mean"] - half, frame["mean"] + half))
        right.set_xlim(*style.limits(0, scale["improvement"], *improvement_interval(scale, metric)))
        ticks((left, right), lines)
        left.axvline(baseline["mean"], color=style.BLACK, linewidth=0.8, linestyle=":", zorder=1)
        right.axvline(0, color=style.BLACK, linewidth=0.8, linestyle=":", zorder=1)
        for y, _, row in lines:
            if row is None:
                continue
            is_baseline = row["experiment"] == baseline["experiment"]
            shift = 0.0 if is_baseline else row["improvement"]
            look = style.BASELINE if is_baseline else style.GROUP_STYLES[group(row)]
            width = half[row.name]
            style.interval(left, y, row["mean"], row["mean"] - width, row["mean"] + width, look)
            style.interval(right, y, shift, *improvement_interval(row, metric), look, is_baseline or row["significant"])
        direction = "higher is better →" if metric.higher_is_better else "← lower is better"
        left.set_title(f"Mean per method\n{direction}")
        right.set_title(f"Paired improvement over {label(baseline)}\nbetter →")
        for axis in (left, right):
            axis.locator_params(axis="x", nbins=6)
        left.set_xlabel(unit(metric, first["protocol"]))
        right.set_xlabel(f"{'gain' if metric.higher_is_better else 'reduction'} per image, same unit")
        fig.suptitle(
            f"{first['dataset']}: {metric.title} of {len(frame)} method{'s' * (len(frame) > 1)}, "
            f"{first['n_images']} images",
            weight="bold",
        )
        note = (
            "Bars: 95 % intervals (left: t; right: BCa bootstrap). "
            f"Filled on the right: p < 0.05 after Holm over {first['n_experiments_tried']} experiments."
        )
        _legend(fig, {group(row) for _, _, row in lines if row is not None}, label(baseline), note)
        style.save(fig, folder, f"{first['dataset']}_{metric.name}")


def hypotheses_figure(
    frame: pd.DataFrame, dataset: str, folder: str | Path, known: Mapping[str, Metric] | None = None
) -> None:
    """Every combined gate against its partners, a panel per metric; better is to the right."""
    if frame.empty:
        style.remark(
            folder,
            f"{dataset}_hypotheses",
            f"{dataset}: no hypothesis to test",
            "The grid of experiments holds no gate by activation × gradient together with something to hold it against.",
        )
        return
    metrics, strength = metrics_in(frame, known), varies(frame)
    cells = frame.assign(construction="combined")
    parts = []
    for _, rows in cells[cells["metric"] == next(iter(metrics))].groupby("experiment", sort=False):
        partners = [(PARTNER_TITLES[row["against"]], row) for _, row in rows.iterrows()]
        parts.append((f"Gated, {place(rows.iloc[0], strength)}, against", partners))
    lines = arrange(parts)
    with style.figure(len(lines) * style.ROW + 1.35, ncols=len(metrics), sharey=True, squeeze=False) as (fig, (axes,)):
        ticks(axes, lines)
        for axis, metric in zip(axes, metrics.values(), strict=True):
            own = frame[frame["metric"] == metric.name].set_index(["experiment", "against"])
            axis.set_xlim(*style.limits(0, own["improvement"], *improvement_interval(own, metric)))
            axis.axvline(0, color=style.BLACK, linewidth=0.8, linestyle=":", zorder=1)
            axis.set_title(f"{metric.title}\nbetter →")
            axis.locator_params(axis="x", nbins=3)
            for y, _, line in lines:
                if line is None:
                    continue
                row = own.loc[(line["experiment"], line["against"])]
                ends = improvement_interval(row, metric)
                style.interval(axis, y, row["improvement"], *ends, style.GROUP_STYLES["Gated"], row["significant"])
        n = frame["n"] + frame["n_left_out"]
        fig.suptitle(
            f"{dataset}: activation × gradient gates against their partners, {n.iloc[0]} images", weight="bold"
        )
        fig.supxlabel(
            "Improvement, image by image, in the metric's unit, with 95 % BCa intervals. Filled: p < 0.05 after Holm "
            "over a panel's lines.",
            fontsize=7.5,
            color=style.GREY,
        )
        style.save(fig, folder, f"{dataset}_hypotheses")


def improvement_interval(row: Any, metric: Metric) -> tuple[Any, Any]:
    """The interval's ends in the good direction; of a row, or of a frame's columns."""
    return (row["ci_low"], row["ci_high"]) if metric.higher_is_better else (-row["ci_high"], -row["ci_low"])


def unit(metric: Metric, protocol: str) -> str:
    """What the values of a metric are, with their range."""
    if metric.name == "pixel_flipping" and protocol == "thesis":
        return "area under p(class) (0 to steps)"
    return metric.quantity or metric.title


def ticks(axes: Sequence, lines: Sequence[Line]) -> None:
    """Name the lines of panels that share their heights, headings in bold, with a faint rule along each."""
    axes[0].set_yticks([y for y, _, _ in lines], [text for _, text, _ in lines])
    axes[0].set_ylim(min(y for y, _, _ in lines) - 0.8, 0.8)
    for tick, (_, _, row) in zip(axes[0].get_yticklabels(), lines, strict=True):
        if row is None:
            tick.set_weight("bold")
    for axis in axes:
        axis.tick_params(axis="y", length=0)
        for y, _, row in lines:
            if row is not None:
                axis.axhline(y, color=style.FAINT, linewidth=0.6, zorder=0)


def _legend(fig, groups: set[str], baseline: str, note: str) -> None:
    from matplotlib.lines import Line2D

    looks = {f"{baseline} (the baseline)": style.BASELINE} | {g: style.GROUP_STYLES[g] for g in GROUPS if g in groups}
    handles = [
        Line2D([], [], color=colour, marker=marker, linewidth=1.1, label=text)
        for text, (colour, marker) in looks.items()
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), title=note, title_fontsize=7.5)
