"""Heat maps of the improvement by gated layers and by construction of the gate."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from fgg.catalogue import CONSTRUCTIONS, CONTROLS, DICTIONARIES
from fgg.comparison.verdicts import BETTER, WORSE
from fgg.faithfulness.measures import Measure
from fgg.report.experiment_names import CONTROL_TITLES, PARTNER_TITLES, kind, label, place, varies
from fgg.report.figures import style
from fgg.report.figures.findings import tally
from fgg.report.metrics_shown import first_fills, measures_in, rows_of

COLUMNS = (
    *(PARTNER_TITLES[name] for name in CONSTRUCTIONS),
    *("shuffled decoder", *(CONTROL_TITLES[name] for name in (*CONTROLS, *DICTIONARIES))),
)
MAP = "PuOr_r"  # diverging and safe for the colour-blind; orange is better


def heat_figure(frame: pd.DataFrame, folder: str | Path, known: Mapping[str, Measure] | None = None) -> None:
    """Draw a panel per metric: a row per set of layers, a column per construction and control.

    Each cell shows the improvement.
    """
    first = frame.iloc[0]
    name = f"{first['dataset']}_heat_map"
    strength = varies(frame)
    gated = frame[frame["construction"].notna() & (frame["experiment"] != first["baseline"])]
    gated = gated.assign(row=[place(row, strength) for _, row in gated.iterrows()])
    gated = gated.assign(column=[kind(row) for _, row in gated.iterrows()])
    rows = list(dict.fromkeys(gated["row"]))
    columns = [column for column in COLUMNS if (gated["column"] == column).any()]
    if not columns:
        text = "The grid of experiments holds no gate."
        style.remark(folder, name, f"{first['dataset']}: no gates to compare", text)
        return
    measures = first_fills(measures_in(frame, known))
    height = len(measures) * (0.28 * len(rows) + 0.42) + 1.15
    with style.figure(height, nrows=len(measures), sharex=True, squeeze=False) as (fig, axes):
        for axis, measure in zip(axes[:, 0], measures.values(), strict=True):
            own = rows_of(gated, measure).drop_duplicates(["row", "column"])
            values = own.pivot(index="row", columns="column", values="improvement").reindex(index=rows, columns=columns)
            words = own.pivot(index="row", columns="column", values="verdict").reindex(index=rows, columns=columns)
            most = np.nanmax([1e-9, *np.abs(values.to_numpy(dtype=float)).ravel()])
            shown = axis.imshow(values, cmap=MAP, vmin=-most, vmax=most, aspect="auto")
            for i, j in np.ndindex(values.shape):
                value = values.iloc[i, j]
                said = str(words.iloc[i, j])
                bold = said in (BETTER, WORSE)
                mark = "*" if bold else "°" if said.startswith((BETTER, WORSE)) else ""
                text = "–" if pd.isna(value) else _signed(value, ".3f") + mark
                dark = not pd.isna(value) and abs(value) > 0.5 * most
                axis.text(j, i, text, ha="center", va="center", color="white" if dark else style.BLACK,
                          weight="bold" if bold else "normal", fontsize=7.5)  # fmt: skip
            axis.set_yticks(range(len(rows)), rows)
            axis.set_xticks(range(len(columns)), [textwrap.fill(column, 12) for column in columns])
            axis.tick_params(length=0)
            axis.spines[:].set_visible(False)
            axis.set_title(measure.title, loc="left")
            bar = fig.colorbar(shown, ax=axis, pad=0.01, fraction=0.03)
            bar.set_ticks([-most, 0, most], labels=[_signed(x, ".2g") for x in (-most, 0.0, most)])
            bar.outline.set_visible(False)
            bar.ax.tick_params(labelsize=7)
        baseline = label(frame[frame["experiment"] == first["baseline"]].iloc[0])
        found = tally(
            pd.concat([rows_of(gated, m).drop_duplicates(["row", "column"])["verdict"] for m in measures.values()])
        )
        style.headline(
            fig,
            f"{first['dataset']}: gates and their controls against {baseline}: {found}; {first['n_images']} measurable images",
        )
        style.note(
            fig,
            "Mean improvement on the same images in the metric's unit; positive (orange) is better for every metric. "
            "Bold with *: p < 0.05 after Holm.",
        )
        style.save(fig, folder, name)


def _signed(value: float, form: str) -> str:
    """A number with its sign; 0 has no sign."""
    text = f"{value:+{form}}"
    return (text if float(text) else text[1:]).replace("-", "−")
