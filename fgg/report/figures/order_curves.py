"""Figure of the class's probability while patches are filled, most (MIF) or least (LIF) relevant first."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from fgg.faithfulness.measurable import measurable_images
from fgg.faithfulness.measures import Measure
from fgg.report.experiment_names import varies
from fgg.report.figures import style
from fgg.report.figures.pixel_flipping_curves import (
    combined,
    curve_label,
    curve_looks,
    mean_curve,
    named_in_legend,
    tolerance_note,
)
from fgg.statistics.bootstrap import LEVEL
from fgg.tables import read_table

MOST_BANDS = 4  # with more gated curves, no bands are drawn


def order_curves_figure(frame: pd.DataFrame, measure: Measure, results: str | Path, folder: str | Path) -> None:
    """Draw MIF on the left, LIF in the middle, and on the right the excess of their distance over the baseline's.

    Args:
        frame: the rows of one measure that reads the curves, on measurable images.
        measure: the measure; its fill is used.
    """
    from scipy import stats

    shown = frame[(frame["construction"].isna() & frame["control"].isna()) | combined(frame)]
    first, strength = shown.iloc[0], varies(frame)
    base = Path(results) / first["dataset"]
    curves = {name: read_curves(base / "curves" / f"{name}.parquet", measure.fill) for name in shown["experiment"]}
    reference = curves[first["baseline"]]
    inside = measurable_images(base, measure.fill, reference["mif"].index)
    named = named_in_legend(shown)
    looks = curve_looks(shown[shown["experiment"].isin(named)])
    bands, columns = shown["construction"].notna().sum() <= MOST_BANDS, 2 if strength else 3
    with style.figure(2.9 + style.ROW * math.ceil(len(named) / columns), ncols=3) as (fig, (left, middle, right)):
        extent = [0.0]
        for _, row in shown.iterrows():
            name = row["experiment"]
            colour, dash, width = looks.get(name, ("#D9A58A", "-", 0.6))
            look = {"color": colour, "linestyle": dash, "linewidth": width, "zorder": 3 if row["construction"] else 2}
            two = {kind: curve[inside] for kind, curve in curves[name].items()}
            share = 100 * np.linspace(0, 1, two["mif"].shape[1])
            text = curve_label(row, strength) if name in named else None
            for axis, kind in ((left, "mif"), (middle, "lif")):
                axis.plot(share, mean_curve(two[kind]), label=text, **look)
            gain = (two["lif"] - two["mif"]) - (reference["lif"] - reference["mif"])[inside]
            mean = mean_curve(gain)
            right.plot(share, mean, **look)
            extent += [*mean] if row["construction"] else []
            if row["construction"] and bands:
                n = gain.notna().sum().to_numpy().clip(min=2)
                half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * gain.std(ddof=1).to_numpy() / np.sqrt(n)
                right.fill_between(share, mean - half, mean + half, color=colour, alpha=0.2, linewidth=0)
                extent += [*(mean - half), *(mean + half)]
        right.set_ylim(*style.limits(extent))
        right.axhline(0, color=style.GREY, linewidth=0.6, zorder=1)
        left.set(ylim=(0, None), ylabel="mean p(class)", title="Most relevant first (MIF)\n↓ lower is better")
        middle.set(ylim=(0, None), title="Least relevant first (LIF)\n↑ higher is better")
        right.set(title="LIF − MIF, less the baseline's\n↑ higher is better")
        for axis in (left, middle, right):
            axis.set(xlabel="patches replaced (%)", xlim=(0, 100))
        fill = f", fill {measure.fill.replace('_', ' ')}"
        fig.suptitle(f"{first['dataset']}: {int(inside.sum())} measurable images{fill}", weight="bold")
        note = "gated: by activation × gradient; the area between LIF and MIF is SRG, 0 for random maps"
        note += "; bands: pointwise 95 % intervals (t)" if bands else ""
        note += tolerance_note(base / "curves" / f"{first['baseline']}.parquet", measure.metric.reference)
        handles, texts = left.get_legend_handles_labels()
        fig.legend(
            handles, texts, loc="outside lower center", ncols=columns, title=style.lines(note), title_fontsize=7.5
        )
        style.save(fig, folder, f"{first['dataset']}_order_curves")


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
