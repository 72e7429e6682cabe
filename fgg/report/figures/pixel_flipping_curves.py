"""The Pixel Flipping curves of the baselines and the combined gates."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fgg.faithfulness.measurable import measurable_images
from fgg.report.experiment_names import group, label, place, varies
from fgg.report.figures import style
from fgg.statistics.bootstrap import LEVEL
from fgg.tables import matrix, read_settings, read_table

MOST_BANDS = 4  # more gated curves than this are drawn without their bands
MOST_NAMED = 8  # if there are more gated curves, the legend names only the lowest and the highest
UNNAMED = ("#D9A58A", "-", 0.6)  # colour, dash and width of gated curves that the legend does not name


def _finding(areas: list[float]) -> str:
    """What the title says: the gates' areas under the curve, less the baseline's."""
    known = [area for area in areas if np.isfinite(area)]
    if not known:
        return " curves"
    ends = list(dict.fromkeys(style.signed(area, 2) for area in (min(known), max(known))))
    which = "the gate's area is" if len(known) == 1 else "the gates' areas are"
    return f": {which} {' to '.join(ends)} against the baseline's, lower is better"


def curves_figure(frame: pd.DataFrame, fill: str, results: str | Path, folder: str | Path) -> None:
    """Draw the mean p(class) while patches are filled, and the paired difference from the baseline.

    Gated curves have 95 % bands. The horizontal axis is the share of steps, which equals the share of patches if the
    last step is complete.
    """
    from scipy import stats

    shown = frame[
        (frame["construction"].isna() & frame["control"].isna())
        | combined(frame)
        | (frame["experiment"] == frame["baseline"])
    ]
    first, strength = shown.iloc[0], varies(frame)
    curves = {
        name: _curves(Path(results) / first["dataset"] / "faithfulness" / f"{name}.parquet")
        for name in shown["experiment"]
    }
    inside = measurable_images(Path(results) / first["dataset"], fill, curves[first["baseline"]].index)
    curves = {name: own[inside] for name, own in curves.items()}
    reference = curves[first["baseline"]]
    share = 100 * np.linspace(0, 1, reference.shape[1])
    named = named_in_legend(shown)
    looks = curve_looks(shown[shown["experiment"].isin(named)])
    columns, bands = 2 if strength else 3, shown["construction"].notna().sum() <= MOST_BANDS
    with style.figure(2.9 + style.ROW * math.ceil((len(named) + 1) / columns), ncols=2) as (fig, (left, right)):
        extent, areas = [0.0], []
        for _, row in shown.iterrows():
            name = row["experiment"]
            colour, dash, width = looks.get(name, UNNAMED)
            look = {"color": colour, "linestyle": dash, "linewidth": width}
            left.plot(
                share, mean_curve(curves[name]), label=curve_label(row, strength) if name in named else None, **look
            )
            difference = (curves[name] - reference).to_numpy()
            mean = mean_curve(difference)
            right.plot(share, mean, zorder=3 if row["construction"] else 2, **look)
            if row["construction"]:
                areas.append(float(np.trapezoid(mean, share / 100)))
                n = (~np.isnan(difference)).sum(axis=0).clip(min=2)
                half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * np.nanstd(difference, axis=0, ddof=1) / np.sqrt(n)
                half = half if bands else 0 * half
                right.fill_between(share, mean - half, mean + half, color=colour, alpha=0.2, linewidth=0)
                extent += [*mean, *(mean - half), *(mean + half)]
        if len(extent) > 1:
            right.set_ylim(*style.limits(extent))
        left.set(ylim=(0, None), ylabel="mean p(class)", title="Probability of the explained class\n↓ lower is better")
        title = f"Difference from {label(shown[shown['experiment'] == first['baseline']].iloc[0])}\n↓ lower is better"
        right.set(ylabel="difference in mean p(class)", title=title)
        for axis in (left, right):
            axis.set(xlabel="patches replaced, most relevant first (%)", xlim=(0, 100))
        head = f"{first['dataset']}: Pixel Flipping{_finding(areas)}"
        style.headline(fig, f"{head}; {len(reference)} measurable images")
        more = len(shown) - len(named)
        note = "gated: by activation × gradient"
        note += f"; lowest and highest mean named, {more} others thin" if more else ""
        note += "; bands: pointwise 95 % intervals (t) of the paired difference" if bands else ""
        own = Path(results) / first["dataset"] / "faithfulness" / f"{first['baseline']}.parquet"
        note += tolerance_note(own, "pixel_flipping")
        entries = left.get_legend_handles_labels()
        fig.legend(*entries, loc="outside lower center", ncols=columns, title=style.lines(note), title_fontsize=7.5)
        style.save(fig, folder, f"{first['dataset']}_pixel_flipping_curves")


def named_in_legend(shown: pd.DataFrame) -> list[str]:
    """The experiments that the legend names: all, or of many gates only those with the lowest and the highest mean."""
    gated = shown[shown["construction"].notna()]
    if len(gated) <= MOST_NAMED:
        return list(shown["experiment"])
    ranked = gated.sort_values("mean", kind="stable")["experiment"]  # experiments without a mean come last
    kept = {ranked.iloc[0], ranked.iloc[gated["mean"].notna().sum() - 1], shown["baseline"].iloc[0]}
    return [row["experiment"] for _, row in shown.iterrows() if not row["construction"] or row["experiment"] in kept]


def mean_curve(values: Any) -> np.ndarray:
    """Mean over images of values (images, steps); NaN at a step that is undefined for all images."""
    array = np.asarray(values, dtype=np.float64)
    n = (~np.isnan(array)).sum(axis=0)
    return np.divide(np.nansum(array, axis=0), n, out=np.full(array.shape[1], np.nan), where=n > 0)


def combined(frame: pd.DataFrame) -> pd.Series:
    """Which rows are combined gates and not controls."""
    return (frame["construction"] == "combined") & frame["control"].isna() & ~frame["shuffle_decoder"].eq(True)


def curve_label(row: pd.Series, strength: bool) -> str:
    """The name of a curve in the legend."""
    return (
        f"gated, {place(row, strength)}"
        if row["construction"] == "combined" and group(row) == "Gated"
        else label(row, strength)
    )


def curve_looks(frame: pd.DataFrame) -> dict[str, tuple]:
    """Colour, dash and width per experiment; the gated curves share one family of colours."""
    looks: dict[str, tuple] = {}
    plain, gated = 0, 0
    for _, row in frame.iterrows():
        if row["experiment"] == row["baseline"]:
            looks[row["experiment"]] = (style.BLACK, "-", 1.3)
        elif row["construction"]:
            colours, dashes = style.GATED_COLOURS, style.DASHES
            looks[row["experiment"]] = (colours[gated % len(colours)], dashes[gated % len(dashes)], 1.6)
            gated += 1
        else:
            colours, dashes = style.CURVE_COLOURS, style.DASHES[1:]
            looks[row["experiment"]] = (colours[plain % len(colours)], dashes[plain % len(dashes)], 1.1)
            plain += 1
    return looks


def tolerance_note(path: Path, metric: str) -> str:
    """What the legend says of curves that are not measured at every step; empty if they are."""
    tolerance = (read_settings(path).get("metrics", {}).get(metric) or {}).get("area_tolerance")
    return f"; steps that areas need to {tolerance:g} are measured, lines join them" if tolerance else ""


def _curves(path: Path) -> pd.DataFrame:
    table = read_table(path, columns=["image_id", "pixel_flipping_curve"])
    return pd.DataFrame(matrix(table, "pixel_flipping_curve"), index=table["image_id"].to_pylist()).sort_index()
