"""How good the SAEs are: how often features are active, and how much of the residual, the model and the images they keep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from fgg.comparison.quality import LEVELS, LOWEST, sae_passes
from fgg.report.figures import style
from fgg.tables import read_json

Measured = Mapping[int, Mapping[str, Any]]  # layer -> metrics.json

DENSE = -1  # log10 of the frequency above which a feature is dense
FEW = 4  # layers whose curves have room for details in the legend


class Panel(NamedTuple):
    """A panel of dots, a line per layer.

    Attributes:
        level: the level of ``quality`` by which the measure is judged.
        against: the measure that it is held against.
        shown: a value that the axis must include.
    """

    key: str
    title: str
    unit: str
    level: str = ""
    against: str = ""
    shown: float = 0.0


PANELS = (
    Panel("explained_variance", "Explained\nvariance →", "1 − FVU", "explained_variance", shown=1.0),
    Panel("accuracy_after", "Accuracy →", "share", "accuracy_loss", "accuracy_before", shown=np.nan),
    Panel("kl", "← KL of the\nprobabilities", "nats", "kl"),
    Panel("morans_i", "Moran's I →", "−1 to 1", against="morans_i_random"),
    Panel("monosemanticity", "Mono-\nsemanticity →", "cosine", against="monosemanticity_random"),
)
SOUND, WEAK, HELD = (style.BLUE, "o"), (style.VERMILION, "X"), (style.GREY, "D")
LINE, TOP = 0.27, 1.55  # inches per layer, and least height of the upper panels


def quality(saes: str | Path, layers: list[int]) -> dict[int, dict[str, Any]]:
    """Layer -> measurements of its SAE (metrics.json)."""
    return {layer: read_json(Path(saes) / f"layer_{layer}" / "metrics.json") for layer in layers}


def quality_figure(dataset: str, measured: Measured, folder: str | Path, levels: Mapping[str, float] = LEVELS) -> None:
    """Draw the frequencies of the features, the shares of dead and dense ones, and below a line of dots per layer.

    Args:
        levels: levels of ``quality``; the side on which an SAE is weak is shaded.
    """
    name = f"{dataset}_sae_quality"
    if not measured:
        text = "The grid of experiments holds no gate that reads an SAE."
        style.remark(folder, name, f"{dataset}: no SAE to measure", text)
        return
    lines = LINE * len(measured)
    top, bottom = max(TOP, lines), lines + 0.15
    with style.figure(top + bottom + 1.85) as (fig, axis):
        axis.remove()
        grid = fig.add_gridspec(2, len(PANELS), height_ratios=(top, bottom))
        _frequencies(fig.add_subplot(grid[0, :3]), measured)
        _dead_and_dense(fig.add_subplot(grid[0, 3:]), measured, levels)
        first: Axes | None = None
        for number, panel in enumerate(PANELS):
            axis = fig.add_subplot(grid[1, number], sharey=first)
            _dots(axis, panel, measured, levels)
            axis.tick_params(axis="y", length=0, labelleft=first is None)
            first = first or axis
        style.headline(fig, _finding(dataset, measured, levels))
        _legend(fig)
        style.save(fig, folder, name)


def _finding(dataset: str, measured: Measured, levels: Mapping[str, float]) -> str:
    """The title: how many SAEs keep the levels of quality that were measured."""
    sound = sum(False not in sae_passes(own, levels).values() for own in measured.values())
    noun = f"SAE{'s' * (len(measured) != 1)}"
    return f"{dataset}: {sound} of {len(measured)} {noun} break no level of quality, on {_held_out(measured)}"


def _frequencies(axis: Axes, measured: Measured) -> None:
    """Draw a histogram of log10(frequency) per layer."""
    ends = (-4.0, 0.0)
    for number, (layer, own) in enumerate(measured.items()):
        found = own.get("frequency_histogram")
        text = f"layer {layer}" + (f": {own['features']} features, L0 {_l0(own)}" if len(measured) <= FEW else "")
        if found is None:
            axis.plot([], [], color=_colour(number), label=f"{text}, unknown")
            continue
        counts = np.array(found["counts"])
        edges = found["lowest"] + found["step"] * np.arange(len(counts) + 1)
        dash = style.DASHES[number % len(style.DASHES)]
        axis.stairs(counts, edges, color=_colour(number), linestyle=dash, linewidth=1.3, label=text)
        used = np.flatnonzero(counts)
        if len(used):
            ends = min(ends[0], edges[used[0]] - found["step"]), ends[1]
    axis.axvspan(DENSE, ends[1], color=style.FAINT, zorder=0, linewidth=0)
    axis.set_xlim(*ends)
    whole = np.arange(np.ceil(ends[0]), 1)
    axis.set_xticks(whole, [f"{100 * 10.0**n:g} %" for n in whole])
    columns = 1 if len(measured) <= FEW else 3
    room = 0.13 * -(-len(measured) // columns) / max(1.0, LINE * len(measured) / TOP)  # for the legend
    axis.set_ylim(bottom=0, top=max(axis.get_ylim()[1], 1) / max(0.4, 0.94 - room))
    axis.annotate("dense", (DENSE / 2, 0.9), xycoords=("data", "axes fraction"), ha="center", color=style.GREY)
    axis.set_title("How often features are active")
    axis.set_xlabel("share of the patches on which a feature is active (log)")
    axis.set_ylabel("features")
    axis.legend(loc="upper left", fontsize=7.5, borderaxespad=0.1, labelspacing=0.25, ncols=columns, columnspacing=1.2)


def _dead_and_dense(axis: Axes, measured: Measured, levels: Mapping[str, float]) -> None:
    """Draw two bars per layer, with their levels."""
    places = -np.arange(len(measured))
    looks = (("dead_share", "dead", 0.19, style.GREY), ("dense_share", "dense", -0.19, style.SKY))
    most = max(100 * float(own.get(key) or 0) for own in measured.values() for key, *_ in looks)
    reach = max(1.35 * most, 1.15 * 100 * max(levels["dead_share"], levels["dense_share"]))
    for key, text, shift, colour in looks:
        values = np.array([_number(own.get(key)) for own in measured.values()]) * 100
        axis.barh(places + shift, np.nan_to_num(values), height=0.34, color=colour, label=text)
        axis.plot(
            np.nan_to_num(values), places + shift, "D" if text == "dead" else "s", color=colour, linestyle="", zorder=3
        )
        axis.axvline(100 * levels[key], color=colour, linewidth=1.1, linestyle=":", zorder=1)
        axis.annotate(
            f"most\n{text}", (100 * levels[key], 0.62), (3, 0), textcoords="offset points", va="top", fontsize=7,
            color=style.GREY,
        )  # fmt: skip
        for y, value in zip(places, values, strict=True):
            said = "unknown" if np.isnan(value) else f"{value:.2g} %" if value < 99.5 else "100 %"
            weak = value > 100 * levels[key]
            axis.annotate(
                f"{said} {text}", (np.nan_to_num(value), y + shift), (6, 0), textcoords="offset points",
                va="center_baseline", fontsize=7, color=style.VERMILION if weak else style.BLACK,
                weight="bold" if weak else "normal", bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
            )  # fmt: skip
    axis.set_xlim(0, reach)
    axis.set_yticks(places, [f"layer {layer}" for layer in measured])
    axis.set_ylim(places[-1] - 0.6, 0.65)
    axis.tick_params(axis="y", length=0)
    axis.set_title("← Dead and dense features")
    axis.set_xlabel("share of the features (%)")


def _dots(
    axis: Axes,
    panel: Panel,
    measured: Measured,
    levels: Mapping[str, float],
) -> None:
    """Draw a measure, a line per layer: its value, its level, and what it is held against."""
    places = -np.arange(len(measured))
    values = np.array([_number(own.get(panel.key)) for own in measured.values()])
    held = np.array([_number(own.get(panel.against)) for own in measured.values()])
    bound = levels.get(panel.level, np.nan)
    below = panel.level in LOWEST
    if panel.level == "accuracy_loss":  # from the model's own accuracy, which all layers share
        bound, below = (np.nanmax(held) if np.isfinite(held).any() else np.nan) - bound, True
    axis.set_xlim(*style.limits(values, held, bound, panel.shown, margin=0.18))
    if np.isfinite(bound):
        left, right = axis.get_xlim()
        axis.axvspan(*((left, bound) if below else (bound, right)), color=style.FAINT, zorder=0, linewidth=0)
        axis.axvline(bound, color=style.GREY, linewidth=1.1, linestyle=":", zorder=1)
    for y, own, value, other in zip(places, measured.values(), values, held, strict=True):
        if np.isnan(value):
            axis.annotate("unknown", (0.5, y), xycoords=("axes fraction", "data"), ha="center", va="center", fontsize=7)
            continue
        weak = sae_passes(own, levels).get(panel.level) is False
        colour, marker = WEAK if weak else SOUND
        if not np.isnan(other):
            axis.plot([other, value], [y, y], color=style.GREY, linewidth=0.8, zorder=1)
            axis.plot(other, y, HELD[1], markerfacecolor="none", markeredgecolor=HELD[0], markersize=5.5, zorder=4)
        axis.plot(value, y, marker, color=colour, markersize=5.5, zorder=3)
        axis.annotate(_short(value), (value, y), (0, 4), textcoords="offset points", ha="center", fontsize=6.5)
    axis.set_yticks(places, [f"layer {layer}" for layer in measured])
    axis.set_ylim(places[-1] - 0.55, 0.75)
    axis.locator_params(axis="x", nbins=3)
    axis.set_title(panel.title)
    axis.set_xlabel(panel.unit)


def _legend(fig: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Line2D([], [], color=SOUND[0], marker=SOUND[1], linestyle="", label="measured"),
        Line2D([], [], color=WEAK[0], marker=WEAK[1], linestyle="", label="breaks its level"),
        Line2D([], [], markerfacecolor="none", markeredgecolor=HELD[0], marker=HELD[1], linestyle="",
               label="compared with"),
        Patch(facecolor=style.FAINT, label="beyond the level"),
    ]  # fmt: skip
    text = (
        "Arrows: better. KL and accuracy: with the reconstruction in the residual's place, compared with the model as it is. Moran's I and "
        "monosemanticity: means over features, compared with patches, or images, in random order. Dotted: levels."
    )
    fig.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), title=style.lines(text), title_fontsize=7.5
    )


def _held_out(measured: Measured) -> str:
    tokens = {own["tokens"] for own in measured.values()}
    return f"{min(tokens):,} held-out patches" if len(tokens) == 1 else "held-out patches"


def _colour(number: int) -> str:
    return (style.BLUE, style.VERMILION, style.GREEN, style.PURPLE, style.ORANGE, style.BLACK)[number % 6]


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)


def _l0(own: Mapping[str, Any]) -> str:
    """Mean L0, with its quartiles if they differ."""
    low, high = own.get("l0_low"), own.get("l0_high")
    return _short(own.get("l0")) + (f" (quartiles {low} to {high})" if low != high else "")


def _short(value: Any) -> str:
    """A number with three digits, without a zero before the point, or the word unknown."""
    if value is None:
        return "unknown"
    if 0 < abs(value) < 5e-4:
        return "< .001"
    text = f"{value:.3f}" if abs(value) < 1 else f"{value:.3g}"
    return text.replace("0.", ".", 1).replace("-", "−") if abs(value) < 1 else text
