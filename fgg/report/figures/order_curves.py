"""Figure of the class's probability while patches are filled, most (MIF) or least (LIF) relevant first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from fgg.faithfulness.measurable import measurable_images
from fgg.faithfulness.measures import Measure
from fgg.report.experiment_names import label, varies
from fgg.report.figures import style
from fgg.report.figures.dot_plots import MOST_FILLS, improvement_interval
from fgg.report.figures.findings import tally
from fgg.report.figures.pixel_flipping_curves import (
    UNNAMED,
    combined,
    curve_label,
    curve_looks,
    mean_curve,
    named_in_legend,
    tolerance_note,
)
from fgg.report.metrics_shown import rows_of, uncrowded
from fgg.statistics.bootstrap import LEVEL
from fgg.tables import read_table

MOST_BANDS = 4  # with more gated curves, no bands are drawn
Curves = Mapping[str, pd.DataFrame]  # mif, lif -> a row per image and a column per step


def order_curves_figure(
    frame: pd.DataFrame, name: str, measures: Mapping[str, Measure], results: str | Path, folder: str | Path
) -> None:
    """Draw a row of panels per fill: MIF, LIF, and the excess of their distance over the baseline's.

    The baseline and the gates have bands in all three.

    Args:
        frame: the comparison's rows on measurable images.
        name: the metric that reads the curves.
        measures: all measures; those of the metric give the fills.
    """
    own = [measure for measure in measures.values() if measure.metric.name == name][:MOST_FILLS]
    shown = uncrowded(rows_of(frame, own[0]), own[0])
    shown = shown[(shown["construction"].isna() & shown["control"].isna()) | combined(shown)]
    first, strength = shown.iloc[0], varies(shown)
    base, baseline = Path(results) / first["dataset"], first["baseline"]
    named = named_in_legend(shown)
    looks = curve_looks(shown[shown["experiment"].isin(named)])
    columns = 2 if strength else 3
    height = 2.35 * len(own) + 0.75 + style.ROW * math.ceil(len(named) / columns)
    with style.figure(height, nrows=len(own), ncols=3, squeeze=False, sharex=True) as (fig, panels):
        for axes, measure in zip(panels, own, strict=True):
            curves = {one: read_curves(base / "curves" / f"{one}.parquet", measure.fill) for one in shown["experiment"]}
            inside = measurable_images(base, measure.fill, curves[baseline]["mif"].index)
            kept = {one: {kind: two[kind][inside] for kind in two} for one, two in curves.items()}
            texts = {row["experiment"]: curve_label(row, strength) for _, row in shown.iterrows()}
            _row(axes, shown, kept, looks, {one: texts[one] for one in named})
            fill = f"fill {measure.fill.replace('_', ' ')}, n = {int(inside.sum())}"
            axes[0].set(ylabel=f"{fill}\nmean p(class)", title="Most relevant first (MIF)\n↓ lower is better")
            axes[1].set(title="Least relevant first (LIF)\n↑ higher is better")
            axes[2].set(title=f"LIF − MIF, less the baseline's\n↑ better{_best(rows_of(frame, measure), measure)}")
        for axis in panels[-1]:
            axis.set(xlabel="patches replaced (%)", xlim=(0, 100))
        style.headline(fig, _finding(frame, own))
        note = "gated: by activation × gradient; the area between LIF and MIF is SRG, 0 for random maps"
        note += "; bands: pointwise 95 % intervals (t) over the images" if _banded(shown) else ""
        note += tolerance_note(base / "curves" / f"{baseline}.parquet", own[0].metric.reference)
        handles, texts_drawn = panels[0][0].get_legend_handles_labels()
        fig.legend(
            handles, texts_drawn, loc="outside lower center", ncols=columns, title=style.lines(note), title_fontsize=7.5
        )
        style.save(fig, folder, f"{first['dataset']}_order_curves")


def _row(
    axes: Sequence[Axes],
    shown: pd.DataFrame,
    curves: Mapping[str, Curves],
    looks: Mapping[str, tuple[Any, Any, float]],
    names: Mapping[str, str],
) -> None:
    """Draw the three panels of a fill."""
    left, middle, right = axes
    reference = curves[shown["baseline"].iloc[0]]
    extent, banded = [0.0], _banded(shown)
    for _, row in shown.iterrows():
        one, two = row["experiment"], curves[row["experiment"]]
        gated, is_baseline = bool(row["construction"]), row["experiment"] == row["baseline"]
        colour, dash, width = looks.get(one, UNNAMED)
        look = {"color": colour, "linestyle": dash, "linewidth": width, "zorder": 3 if gated else 2}
        share = 100 * np.linspace(0, 1, two["mif"].shape[1])
        for axis, kind in ((left, "mif"), (middle, "lif")):
            axis.plot(share, mean_curve(two[kind]), label=names.get(one), **look)
            if banded and (gated or is_baseline):
                _band(axis, share, two[kind], colour, 0.12)
        gain = (two["lif"] - two["mif"]) - (reference["lif"] - reference["mif"])
        right.plot(share, mean_curve(gain), **look)
        if gated:
            extent += [*mean_curve(gain)]
            extent += _band(right, share, gain, colour, 0.2) if banded else []
    right.set_ylim(*style.limits(extent))
    right.axhline(0, color=style.GREY, linewidth=0.6, zorder=1)
    for axis in (left, middle):
        axis.set_ylim(0, None)


def _band(axis: Axes, share: np.ndarray, values: pd.DataFrame, colour: str, alpha: float) -> list[float]:
    """Draw the pointwise interval of the mean over the images; returns its ends."""
    from scipy import stats

    mean, n = mean_curve(values), values.notna().sum().to_numpy().clip(min=2)
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.std(ddof=1).to_numpy() / np.sqrt(n)
    axis.fill_between(share, mean - half, mean + half, color=colour, alpha=alpha, linewidth=0)
    return [*(mean - half), *(mean + half)]


def _banded(shown: pd.DataFrame) -> bool:
    return bool(shown["construction"].notna().sum() <= MOST_BANDS)


def _best(rows: pd.DataFrame, measure: Measure) -> str:
    """The gain of the best gate by the measure, with its interval; empty without gates."""
    gates = rows[combined(rows) & rows["improvement"].notna()]
    if gates.empty:
        return ""
    best = gates.loc[gates["improvement"].idxmax()]
    low, high = improvement_interval(best, measure.metric)
    ends = "(no interval)" if np.isnan([low, high]).any() else f"[{style.signed(low, 2)}, {style.signed(high, 2)}]"
    name = measure.metric.short or measure.metric.title
    return f"; best gate in {name}:\n{style.signed(best['improvement'], 2)} {ends}"


def _finding(frame: pd.DataFrame, measures: Sequence[Measure]) -> str:
    """The title: how many gates separate LIF from MIF better than the baseline does, by the metric."""
    first, metric = frame.iloc[0], measures[0].metric
    rows = pd.concat([rows_of(frame, measure) for measure in measures])
    gates = rows[combined(rows)]
    baseline = label(rows[rows["experiment"] == first["baseline"]].iloc[0])
    name, fills = metric.short or metric.title, f", with {len(measures)} fills" if len(measures) > 1 else ""
    if gates.empty:
        return f"{first['dataset']}: the probability while patches are replaced, {baseline} and other methods"
    number = gates["experiment"].nunique()
    return f"{first['dataset']}: {name} of {number} gate{'s' * (number != 1)} against {baseline}{fills}: {tally(gates['verdict'])}"


def read_curves(path: Path, fill: str) -> dict[str, pd.DataFrame]:
    """Read the MIF and LIF curves of a fill: a row per image, sorted by id, and a column per step.

    The curves are those with the smallest step that both orders have.
    """
    table = read_table(path, ["image_id", "fill", "curve", "patches_per_step", "probability"]).to_pandas()
    table = table[table["fill"] == fill]
    kinds = {kind: table[table["curve"] == kind] for kind in ("mif", "lif")}
    step = min(set.intersection(*(set(own["patches_per_step"]) for own in kinds.values())))
    found = {}
    for kind, own in kinds.items():
        rows = own[own["patches_per_step"] == step]
        found[kind] = pd.DataFrame(np.stack(rows["probability"].tolist()), index=rows["image_id"]).sort_index()
    return found
