"""Dot plots with intervals: all experiments by one metric, and the hypotheses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fgg.comparison.verdicts import UNGATED
from fgg.faithfulness.measures import Measure
from fgg.faithfulness.registry import Metric
from fgg.report.experiment_names import GROUPS, group, kind, label, partner_title, place, varies
from fgg.report.figures import style
from fgg.report.figures.findings import tally
from fgg.report.metrics_shown import measures_in, rows_of

Line = tuple[float, str, Any]  # height, text, and the row (a pandas Series), or None for a heading


def arrange(sections: Sequence[tuple[str, list[tuple[str, pd.Series]]]]) -> list[Line]:
    """Heights, from 0 downwards, for sections of (text, row) lines under a heading; empty sections are left out."""
    lines: list[Line] = []
    y = 0.0
    for heading, rows in sections:
        if rows:
            lines.append((y, heading, None))
            lines += [(y - 1 - i, text, row) for i, (text, row) in enumerate(rows)]
            y -= len(rows) + 1.35
    return lines


def sections(frame: pd.DataFrame) -> list[tuple[str, list[tuple[str, pd.Series]]]]:
    """A metric's rows by group; gated experiments and controls are also grouped by the layers that they gate."""
    strength = varies(frame)
    found: dict[tuple[str, str], list] = {}
    for _, row in frame.iterrows():
        text = kind(row) + (f" (n = {row['n']})" if row["n"] < row["n_images"] else "")
        found.setdefault((group(row), place(row, strength)), []).append((text, row))
    ordered = sorted(found, key=lambda key: GROUPS.index(key[0]))  # stable: keeps the configuration's order
    return [(", ".join(filter(None, key)), found[key]) for key in ordered]


MOST_FILLS = 3  # fills of a metric that get a panel each


def _finding(per_fill: Sequence[pd.DataFrame], metric: Metric, baseline: str) -> str:
    """What the title of a metric's figure says: how the gates do, or without gates, which method has the best mean."""
    gates = [own[[group(row) == "Gated" for _, row in own.iterrows()]] for own in per_fill]
    if len(gates[0]):
        said = tally(pd.concat([own["verdict"] for own in gates]))
        return f"{metric.title} of {len(gates[0])} gate{'s' * (len(gates[0]) != 1)} against {baseline}: {said}"
    known = per_fill[0][per_fill[0]["mean"].notna() & per_fill[0]["role"].eq("method")]
    if known.empty:
        return f"{metric.title} of {len(per_fill[0])} methods"
    best = known.loc[(metric.sign * known["mean"]).idxmax()]
    return f"{metric.title}: {label(best)} has the best mean of {len(known)} methods"


def metric_figure(frame: pd.DataFrame, measures: Sequence[Measure], folder: str | Path) -> None:
    """Draw the means of all methods on the left, and beside them, per fill, the paired improvements over the baseline.

    Args:
        frame: the rows of the metric on measurable images.
        measures: the metric with its fills.
    """
    metric, shown = measures[0].metric, list(measures)[:MOST_FILLS]
    per_fill = [rows_of(frame, measure) for measure in shown]
    rows, first = per_fill[0], per_fill[0].iloc[0]
    baseline = rows[rows["experiment"] == first["baseline"]].iloc[0]
    lines = arrange(sections(rows))
    with style.figure(len(lines) * style.ROW + 1.5, ncols=1 + len(shown), sharey=True) as (fig, (left, *others)):
        half = style.half_widths(rows)
        left.set_xlim(*style.limits(rows["mean"], rows["mean"] - half, rows["mean"] + half))
        ticks((left, *others), lines)
        left.axvline(baseline["mean"], color=style.BLACK, linewidth=0.8, linestyle=":", zorder=1)
        for y, _, row in lines:
            if row is not None:
                look = style.BASELINE if row["experiment"] == first["baseline"] else style.GROUP_STYLES[group(row)]
                width = half[row.name]
                style.interval(left, y, row["mean"], row["mean"] - width, row["mean"] + width, look)
        for axis, measure, own in zip(others, shown, per_fill, strict=True):
            _improvements(axis, lines, own.set_index("experiment"), metric, first["baseline"])
            axis.set_title(f"Gain over {label(baseline)}{_filled(measure)}\nbetter →")
        direction = "higher is better →" if metric.higher_is_better else "← lower is better"
        left.set_title(f"Mean per method{_filled(shown[0])}\n{direction}")
        for axis in (left, *others):
            axis.locator_params(axis="x", nbins=6 - len(shown))
        left.set_xlabel(unit(metric, first["protocol"]))
        others[0].set_xlabel("per image, same unit" if metric.higher_is_better else "reduction per image, same unit")
        style.headline(fig, f"{first['dataset']}: {_finding(per_fill, metric, label(baseline))}; {images_of(per_fill)}")
        tail = "" if len(measures) == len(shown) else f" More fills are in the tables ({len(measures)} in all)."
        _legend(
            fig,
            {group(row) for _, _, row in lines if row is not None},
            label(baseline),
            "Bars: 95 % intervals (means: t; gains: BCa bootstrap). Filled: p < 0.05 after Holm. A small diamond in a hollow marker: "
            f"significant, but by the values alone, not by the order.{tail}",
        )
        style.save(fig, folder, f"{first['dataset']}_{metric.name}")


def _improvements(axis: Any, lines: Sequence[Line], own: pd.DataFrame, metric: Metric, baseline: str) -> None:
    """Draw a panel of improvements over the baseline; the gated experiments determine its axis."""
    gated = own[own["construction"].notna() & (own.index != baseline)]
    scale = gated if len(gated) else own
    axis.set_xlim(*style.limits(0, scale["improvement"], *improvement_interval(scale, metric)))
    axis.axvline(0, color=style.BLACK, linewidth=0.8, linestyle=":", zorder=1)
    for y, _, line in lines:
        if line is None:
            continue
        row, is_baseline = own.loc[line["experiment"]], line["experiment"] == baseline
        shift = 0.0 if is_baseline else row["improvement"]
        look = style.BASELINE if is_baseline else style.GROUP_STYLES[group(line)]
        sure = is_baseline or row["verdict"] in ("better", "worse")
        style.interval(axis, y, shift, *improvement_interval(row, metric), look, sure)
        if not sure and row["significant"] and style.beyond(axis, shift) is None:
            axis.plot(shift, y, "D", color=look[0], markersize=2, zorder=4)


def images_of(per_fill: Sequence[pd.DataFrame]) -> str:
    """How many images are measurable with each fill."""
    counts = [
        f"{rows.iloc[0]['n_images']}" + (f" ({rows.iloc[0]['fill']})" if len(per_fill) > 1 else "") for rows in per_fill
    ]
    return f"{', '.join(counts)} measurable images"


def _filled(measure: Measure) -> str:
    return "" if measure.alone else f",\nfill {measure.fill.replace('_', ' ')}"


def hypotheses_figure(
    frame: pd.DataFrame, dataset: str, folder: str | Path, known: Mapping[str, Measure] | None = None
) -> None:
    """Draw every combined gate against its partners on measurable images, a panel per metric; better is to the right.

    The markers of the first fill are large; those of the other fills are small and below it.
    """
    if frame.empty:
        style.remark(
            folder,
            f"{dataset}_hypotheses",
            f"{dataset}: no hypothesis to test",
            "The grid of experiments holds no gate by activation × gradient together with something to compare it with.",
        )
        return
    measures, strength = measures_in(frame, known), varies(frame)
    metrics = {measure.metric.name: measure.metric for measure in measures.values()}
    cells = rows_of(frame, next(iter(measures.values()))).assign(construction="combined")
    parts = []
    for _, rows in cells.groupby("experiment", sort=False):
        partners = [(partner_title(row["against"], row["partner"]), row) for _, row in rows.iterrows()]
        parts.append((f"Gated, {place(rows.iloc[0], strength)}, against", partners))
    lines = arrange(parts)
    fills = list(dict.fromkeys(measure.fill for measure in measures.values() if measure.fill))[:MOST_FILLS]
    height = len(lines) * style.ROW * (1 + 0.3 * (len(fills) > 1)) + 1.5
    with style.figure(height, ncols=len(metrics), sharey=True, squeeze=False) as (fig, (axes,)):
        ticks(axes, lines)
        for axis, metric in zip(axes, metrics.values(), strict=True):
            of_metric = [measure for measure in measures.values() if measure.metric is metric][:MOST_FILLS]
            drawn = [rows_of(frame, measure).set_index(["experiment", "partner"]) for measure in of_metric]
            ends = [end for own in drawn for end in improvement_interval(own, metric)]
            axis.set_xlim(*style.limits(0, *(own["improvement"] for own in drawn), *ends))
            axis.axvline(0, color=style.BLACK, linewidth=0.8, linestyle=":", zorder=1)
            axis.set_title(f"{metric.short or metric.title}\nbetter →")
            axis.locator_params(axis="x", nbins=3)
            for y, _, line in lines:
                for number, own in enumerate(drawn if line is not None else ()):
                    row = own.loc[(line["experiment"], line["partner"])]
                    look = (FILL_COLOURS[number], FILL_MARKERS[number])
                    height_of = y - 0.32 * number + 0.16 * (len(drawn) - 1)
                    sure = row["verdict"] in ("better", "worse")
                    style.interval(axis, height_of, row["improvement"], *improvement_interval(row, metric), look, sure)
        counts = {fill: int(frame.loc[frame["fill"] == fill, "n_images"].max()) for fill in fills}
        of = ", ".join(f"{n} ({fill})" if len(counts) > 1 else str(n) for fill, n in counts.items())
        what = f"{of} measurable images" if counts else f"{int(frame['n_images'].max())} images"
        gates, controls = frame["experiment"].nunique(), frame[~frame["against"].isin(["transmm", UNGATED])]
        said = f": {tally(controls['verdict'])}" if len(controls) else ""
        head = f"{dataset}: {gates} gate{'s' * (gates != 1)} against what could explain {'its' if gates == 1 else 'their'} gain"
        style.headline(fig, f"{head}{said}; {what}")
        text = "Improvement, image by image, in the metric's unit, with 95 % BCa intervals. Filled: p < 0.05 after Holm, and "
        text += "against TransMM not by the values alone."
        if len(fills) > 1:
            _fill_legend(fig, fills, text)
        else:
            style.note(fig, text)
        style.save(fig, folder, f"{dataset}_hypotheses")


FILL_COLOURS = (style.VERMILION, style.BLUE, style.GREEN)
FILL_MARKERS = ("o", "s", "^")


def _fill_legend(fig: Any, fills: Sequence[str], note: str) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker=marker, linewidth=1.1, label=f"fill {fill.replace('_', ' ')}")
        for fill, colour, marker in zip(fills, FILL_COLOURS, FILL_MARKERS, strict=False)
    ]
    fig.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), title=style.lines(note), title_fontsize=7.5
    )


def improvement_interval(row: Any, metric: Metric) -> tuple[Any, Any]:
    """The ends of the interval of the improvement, from a row or from the columns of a frame."""
    return (row["ci_low"], row["ci_high"]) if metric.higher_is_better else (-row["ci_high"], -row["ci_low"])


def unit(metric: Metric, protocol: str) -> str:
    """The quantity that a metric measures, with its range."""
    if metric.name == "pixel_flipping" and protocol == "thesis":
        return "area under p(class) (0 to steps)"
    return metric.quantity or metric.title


def ticks(axes: Sequence, lines: Sequence[Line]) -> None:
    """Label the lines of panels with common heights; headings are bold, and each line has a faint rule."""
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
    fig.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), title=style.lines(note), title_fontsize=7.5
    )
