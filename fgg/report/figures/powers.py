"""TransMM raised to powers: the effect of the spread of values on a metric, with the order of the patches unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from fgg.faithfulness.measures import Measure
from fgg.report.experiment_names import place, varies
from fgg.report.figures import style
from fgg.report.figures.pixel_flipping_curves import combined
from fgg.report.metrics_shown import first_fills, measures_in, rows_of

POWER = "power"  # the control


def powers_figure(frame: pd.DataFrame, folder: str | Path, known: Mapping[str, Measure] | None = None) -> None:
    """Draw a panel per metric: its mean against the power of TransMM; horizontal lines are the gated maps.

    Args:
        frame: the comparison's rows on measurable images.
    """
    first, strength = frame.iloc[0], varies(frame)
    measures = first_fills(measures_in(frame, known))
    with style.figure(2.7, ncols=len(measures), squeeze=False) as (fig, (axes,)):
        for axis, measure in zip(axes, measures.values(), strict=True):
            rows = rows_of(frame, measure)
            powers = rows[(rows["control"] == POWER) | (rows["experiment"] == "transmm")]
            at = np.array([_power(name) for name in powers["experiment"]])
            order = np.argsort(at)
            powers, at = powers.iloc[order], at[order]
            half = style.half_widths(powers)
            axis.fill_between(
                at, powers["mean"] - half, powers["mean"] + half, color=style.BLACK, alpha=0.15, linewidth=0
            )
            axis.plot(at, powers["mean"], "D-", color=style.BLACK, label="TransMM to a power")
            for number, (_, row) in enumerate(rows[combined(rows)].iterrows()):
                colour, dash = style.GATED_COLOURS[number % len(style.GATED_COLOURS)], style.DASHES[number % 5]
                axis.axhline(row["mean"], color=colour, linestyle=dash, label=f"gated, {place(row, strength)}")
            axis.set(xscale="log", xlabel="power")
            axis.set_xticks(at, [f"{power:g}" for power in at])
            axis.minorticks_off()
            axis.set_title(
                f"{measure.metric.short or measure.metric.title}\n{'↑ higher' if measure.metric.higher_is_better else '↓ lower'} is better"
            )
        handles, texts = axes[0].get_legend_handles_labels()
        fig.legend(handles[:6], texts[:6], loc="outside lower center", ncols=3)
        fig.suptitle(
            f"{first['dataset']}: a power changes the spread of the values, not the order, {first['n_images']} measurable images",
            weight="bold",
        )
        style.save(fig, folder, f"{first['dataset']}_powers")


def _power(experiment: str) -> float:
    return 1.0 if experiment == "transmm" else float(experiment.rsplit("-p", 1)[1])
