"""What SAEs trade: few active features against what is kept of the residual stream and of the model's answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from fgg.catalogue import DICTIONARIES
from fgg.comparison.quality import LEVELS, LOWEST
from fgg.report.experiment_names import CONTROL_TITLES
from fgg.report.figures import style
from fgg.report.figures.dot_plots import Line, arrange, ticks
from fgg.saes.choose_sae import on_front

KINDS = {kind: CONTROL_TITLES[control] for control, (_, kind) in DICTIONARIES.items()}
NUMBERS = ("l0", "l0_low", "l0_high", "explained_variance", "loss", "loss_replaced", "same_prediction")
CONTROL = (style.GREEN, "^")
OWN = (style.VERMILION, "o")


class Panel(NamedTuple):
    """A column of dots.

    Attributes:
        key: a column of the table.
        title: its title, with an arrow towards better.
        unit: the label of the axis.
        sign: 1 if larger is better, -1 if smaller is.
        level: the level of ``quality`` that applies to it.
        shown: a value that the axis must include.
    """

    key: str
    title: str
    unit: str
    sign: int
    level: str = ""
    shown: float = np.nan


PANELS = (
    Panel("l0", "← L0", "active features per patch", -1),
    Panel("explained_variance", "Explained variance →", "1 − FVU", 1, "explained_variance", 1.0),
    Panel("loss_change", "← Change of the loss", "nats", -1, "", 0.0),
    Panel("same_prediction", "Same prediction →", "share of the images", 1, "same_prediction", 1.0),
)
TRADED = ("explained_variance", "loss_change")  # what is held against L0


def pareto_figure(dataset: str, table: pd.DataFrame, folder: str | Path, levels: Mapping[str, float] = LEVELS) -> None:
    """Draw a line per SAE, by layer, with a dot per measure; a ring marks the Pareto front with L0 within the layer.

    Args:
        table: rows of a dataset and seed of ``sae_quality.csv``, or `measured_rows`.
        levels: levels of ``quality``; the side on which an SAE is weak is shaded.
    """
    name = f"{dataset}_sae_pareto"
    if table.empty:
        text = "The grid of experiments holds no gate that reads an SAE."
        style.remark(folder, name, f"{dataset}: no SAE to measure", text)
        return
    rows = with_fronts(table)
    lines = arrange(_sections(rows))
    with style.figure(1.2 * len(lines) * style.ROW + 1.8, ncols=len(PANELS), sharey=True) as (fig, axes):
        ticks(axes, lines)
        for axis, panel in zip(axes, PANELS, strict=True):
            _panel(axis, panel, lines, levels)
        style.headline(fig, _finding(dataset, rows))
        _legend(fig, rows)
        style.save(fig, folder, name)


def measured_rows(measured: Mapping[int, Mapping[str, Any]]) -> pd.DataFrame:
    """The table's rows of a dataset's own SAEs, from layer -> metrics.json."""
    rows = [{"layer": layer, **{key: own.get(key) for key in ("kind", *NUMBERS)}} for layer, own in measured.items()]
    return pd.DataFrame(rows)


def with_fronts(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with ``loss_change``, and whether each is on the front of L0 and ``{measure}`` in its layer (``front_…``)."""
    rows = table.reset_index(drop=True).astype(dict.fromkeys(NUMBERS, float))
    rows["loss_change"] = rows["loss_replaced"] - rows["loss"]
    for key in TRADED:
        sign = next(panel.sign for panel in PANELS if panel.key == key)
        rows[f"front_{key}"] = False
        for _, own in rows.groupby("layer"):
            if len(own) < 2:  # a front of one says nothing
                continue
            rows.loc[own.index, f"front_{key}"] = on_front(own["l0"], sign * own[key])
    return rows


def _sections(rows: pd.DataFrame) -> list[tuple[str, list[tuple[str, Any]]]]:
    """A section per layer, or one for all if each layer has one SAE."""
    if rows["layer"].is_unique:
        return [("SAEs of the gates", [(f"layer {row['layer']}", row) for _, row in rows.iterrows()])]
    return [
        (f"Layer {layer}", [(_kind(row["kind"]), row) for _, row in own.sort_values("l0", kind="stable").iterrows()])
        for layer, own in rows.groupby("layer")
    ]


def _panel(axis: Axes, panel: Panel, lines: list[Line], levels: Mapping[str, float]) -> None:
    """Draw a measure: a dot per SAE with its number, its level, and rings around the front."""
    rows = [row for _, _, row in lines if row is not None]
    values = np.array([row[panel.key] for row in rows])
    bound = levels.get(panel.level, np.nan)
    if panel.key == "l0":
        low, high = style.limits(np.log2(values[values > 0]), margin=0.3)
        axis.set_xscale("log", base=2)
        axis.set_xlim(2 ** min(low, np.log2(np.nanmin(values)) - 1.1), 2 ** max(high, np.log2(np.nanmax(values)) + 1.1))
        found = [2.0**power for power in range(16) if axis.get_xlim()[0] <= 2.0**power <= axis.get_xlim()[1]]
        axis.set_xticks(found[:: -(-len(found) // 4)], [f"{tick:g}" for tick in found[:: -(-len(found) // 4)]])
        axis.minorticks_off()
    else:
        axis.set_xlim(*style.limits(values, bound, panel.shown, margin=0.3))
        axis.locator_params(axis="x", nbins=3)
    if np.isfinite(bound):
        below = panel.level in LOWEST
        axis.axvspan(
            *((axis.get_xlim()[0], bound) if below else (bound, axis.get_xlim()[1])), color=style.FAINT, zorder=0
        )
        axis.axvline(bound, color=style.GREY, linewidth=1.1, linestyle=":", zorder=1)
    if panel.key == "loss_change":
        axis.axvline(0, color=style.BLACK, linewidth=0.8, zorder=1)
    for y, _, row in lines:
        if row is None:
            continue
        if np.isnan(row[panel.key]):
            axis.annotate("unknown", (0.5, y), xycoords=("axes fraction", "data"), ha="center", va="center", fontsize=7)
            continue
        colour, marker = CONTROL if row["kind"] in KINDS else OWN
        if panel.key == "l0":
            axis.plot([row["l0_low"], row["l0_high"]], [y, y], color=colour, linewidth=1.1, zorder=2)
        axis.plot(row[panel.key], y, marker, color=colour, markersize=5, zorder=3)
        if row.get(f"front_{panel.key}", False):
            axis.plot(
                row[panel.key], y, "o", markerfacecolor="none", markeredgecolor=style.BLACK, markersize=9, zorder=4
            )
        _number(axis, row[panel.key], y, panel)
    axis.set_title(panel.title)
    axis.set_xlabel(panel.unit)


def _number(axis: Axes, value: float, y: float, panel: Panel) -> None:
    """Write the value beside its dot, on the side with more room."""
    low, high = axis.get_xlim()
    share = (np.log(value / low) / np.log(high / low)) if panel.key == "l0" else (value - low) / (high - low)
    text = style.signed(value) if panel.key == "loss_change" else f"{value:.3g}".replace("-", "−")
    shift, side = (-6, "right") if share > 0.55 else (6, "left")
    axis.annotate(
        "0" if panel.key == "loss_change" and abs(value) < 5e-7 else text, (value, y), (shift, 0),
        textcoords="offset points", ha=side, va="center_baseline", fontsize=7, zorder=5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3, "alpha": 0.8},
    )  # fmt: skip


def _kind(kind: Any) -> str:
    """What an SAE is, in words."""
    if not isinstance(kind, str):
        return "SAE of the gates"
    return KINDS.get(kind, f"{kind.replace('_', ' ')} SAE")


def _finding(dataset: str, rows: pd.DataFrame) -> str:
    """The title: what the gates' SAEs keep and with how many features, and whether a control beats them."""
    own = rows[~rows["kind"].isin(list(KINDS))]
    whose = (
        ("the gate's SAE explains" if len(own) == 1 else "the gates' SAEs explain") if len(own) else "the SAEs explain"
    )
    own = own if len(own) else rows
    ev, l0 = own["explained_variance"], own["l0"]
    kept = "an unknown share" if ev.isna().all() else _range(100 * ev.min(), 100 * ev.max(), "{:.0f}") + " %"
    text = f"{dataset}: {whose} {kept} of the variance with {_range(l0.min(), l0.max(), '{:.3g}')} active features per patch"
    change = own["loss_change"]
    if change.notna().any() and len(own) == len(rows):
        ends = [style.signed(value, 2) for value in (change.min(), change.max())]
        text += f"; the loss changes by {' to '.join(dict.fromkeys(ends))} nats"
    if len(own) < len(rows):
        fronts = {"variance": own["front_explained_variance"], "loss": own["front_loss_change"][change.notna()]}
        parts = [f"{front.sum()} of {len(front)} by {name}" for name, front in fronts.items() if len(front)]
        text += f"; on the Pareto front with their controls: {' and '.join(parts)}"
    return text


def _range(low: float, high: float, form: str) -> str:
    return " to ".join(dict.fromkeys(form.format(end).replace("-", "−") for end in (low, high)))


def _legend(fig: Any, rows: pd.DataFrame) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    controls = rows["kind"].isin(list(KINDS))
    handles = [Line2D([], [], color=OWN[0], marker=OWN[1], linestyle="", label="SAE of the gates")] * bool(
        (~controls).any()
    )
    if controls.any():
        handles.append(Line2D([], [], color=CONTROL[0], marker=CONTROL[1], linestyle="", label="control"))
    ring = {"markerfacecolor": "none", "markeredgecolor": style.BLACK, "marker": "o", "markersize": 8, "linestyle": ""}
    fronts = rows[[f"front_{key}" for key in TRADED]].any(axis=None)
    if fronts:
        handles.append(Line2D([], [], label="on the Pareto front with L0", **ring))
    handles.append(Patch(facecolor=style.FAINT, label="beyond the level"))
    tokens = rows["tokens"].dropna().unique() if "tokens" in rows else []
    held = f"On {int(tokens[0]):,} held-out patches. " if len(tokens) == 1 else "On held-out images. "
    text = f"{held}Bars: quartiles of L0. "
    text += "Front: no other SAE of the layer has as few active features and keeps as much. " if fronts else ""
    text += "Loss (cross-entropy) and prediction: with the reconstruction in the residual's place, compared with the model as it is."
    fig.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), title=style.lines(text), title_fontsize=7.5
    )
