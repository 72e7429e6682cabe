"""The style of the comparison's figures: one width, one font size, one marker and colour per group.

The colours are those of Okabe and Ito (2008), which are safe for the colour-blind; markers and line styles differ too,
so that the figures read in greyscale. A filled marker stands for a significant difference, a hollow one for any other.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatter, NullFormatter

from fgg.statistics.bootstrap import LEVEL
from fgg.tables import atomic
from fgg.visible import literal

WIDTH = 7.0  # inches
ROW = 0.175  # inches per line of a dot plot
TITLE = 90  # characters in a line of a figure's title

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"),
)
GREY = "#666666"
FAINT = "#E8E8E8"
BASELINE = (BLACK, "D")  # colour and marker
GROUP_STYLES = {"Baselines": (BLUE, "s"), "Gated": (VERMILION, "o"), "Controls": (GREEN, "^"), "Bounds": (GREY, "v")}
CURVE_COLOURS: tuple[str, ...] = (BLUE, GREEN, ORANGE, PURPLE, SKY)
GATED_COLOURS: tuple[str, ...] = (VERMILION, "#8C3B00", "#F2A477", "#5C2600")
CONSTRUCTION_COLOURS = {"combined": VERMILION, "activation_only": BLUE, "gradient_only": GREEN, "no_sae": BLACK}
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (8, 2)))

RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "figure.titlesize": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "svg.hashsalt": "fgg",
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "text.parse_math": False,  # names of classes, images and features are drawn as they are, also with $ in them
}


@contextmanager
def figure(height: float, **kwargs) -> Iterator[tuple[Figure, Any]]:
    """Yield a figure of the common width and the given height in inches, and its axes; close it afterwards."""
    with matplotlib.rc_context(RC):
        fig, axes = plt.subplots(figsize=(WIDTH, height), layout="constrained", **kwargs)
        try:
            yield fig, axes
        finally:
            plt.close(fig)


def save(fig: Figure, folder: str | Path, name: str) -> None:
    """Write ``name.png`` and ``name.svg``; the same figure gives the same bytes."""
    _plain_ticks(fig)
    literal(fig)
    metadata = {"png": {"Software": None}, "svg": {"Date": None}}
    for suffix, marks in metadata.items():
        with atomic(Path(folder) / f"{name}.{suffix}") as temporary:
            fig.savefig(temporary, format=suffix, metadata=marks)


def _plain_ticks(fig: Figure) -> None:
    """Give logarithmic axes tick labels without formulas, such as 0.01."""
    for axes in fig.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), LogFormatter):
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            if isinstance(axis.get_minor_formatter(), LogFormatter):
                axis.set_minor_formatter(NullFormatter())


def beyond(axis: Axes, value: float) -> tuple[float, str] | None:
    """The edge and the arrow that mark a value beyond the limits of the axis; None for a value within, or NaN."""
    left, right = axis.get_xlim()
    if value < left:
        return left, "<"
    return (right, ">") if value > right else None


def interval(
    axis: Axes, y: float, centre: float, low: float, high: float, style: tuple[str, str], filled: bool = True
) -> None:
    """Draw a dot with its interval at height y, or nothing if the value is undefined.

    A value beyond the limits of the axis is drawn as an arrow at the edge, with the number.
    """
    colour, marker = style
    if np.isnan(centre):
        return
    face = colour if filled else "white"
    outside = beyond(axis, centre)
    if outside is None:
        axis.plot([low, high], [y, y], color=colour, linewidth=1.1, solid_capstyle="butt", zorder=2)
        axis.plot(centre, y, marker, markerfacecolor=face, markeredgecolor=colour, markeredgewidth=0.9, zorder=3)
        for edge, tip in filter(None, (beyond(axis, low), beyond(axis, high))):
            axis.plot(edge, y, tip, color=colour, markersize=3, clip_on=False)
        return
    edge, arrow = outside
    inwards = (-5, "right") if arrow == ">" else (5, "left")
    axis.plot(edge, y, arrow, markerfacecolor=face, markeredgecolor=colour, clip_on=False, zorder=3)
    axis.annotate(
        signed(centre),
        (edge, y),
        xytext=(inwards[0], 0),
        textcoords="offset points",
        ha=inwards[1],
        va="center_baseline",
        color=colour,
        fontsize=7.5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3, "alpha": 0.8},
    )


def half_widths(rows: Any) -> Any:
    """Half the width of the t interval of each row's mean, from its columns ``sem`` and ``n``."""
    from scipy import stats

    return rows["sem"] * stats.t.ppf((1 + LEVEL) / 2, (rows["n"] - 1).clip(lower=1))


def limits(*values, margin: float = 0.06) -> tuple[float, float]:
    """Axis limits that include all finite values, with a margin; also around a single value."""
    found = np.concatenate([np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in values])
    found = found[np.isfinite(found)] if np.isfinite(found).any() else np.zeros(1)
    low, high = found.min(), found.max()
    room = margin * (high - low) or 0.01
    return low - room, high + room


def remark(folder: str | Path, name: str, title: str, text: str) -> None:
    """Write a figure that says why there is nothing to draw."""
    with figure(1.1) as (fig, axis):
        axis.axis("off")
        fig.suptitle(title, weight="bold")
        axis.text(0.5, 0.5, textwrap.fill(text, 95), ha="center", va="center", transform=axis.transAxes)
        save(fig, folder, name)


def headline(fig: Figure, text: str) -> None:
    """Write the title of a figure, which states what the numbers say, in as few lines as it needs, of like length."""
    needed = len(textwrap.wrap(text, TITLE))
    even = next(width for width in range(len(text) // needed, TITLE + 1) if len(textwrap.wrap(text, width)) <= needed)
    fig.suptitle(textwrap.fill(text, even), weight="bold")


def signed(value: float, digits: int = 3) -> str:
    """A difference with its sign, such as ``−0.0123``."""
    return f"{value:+.{digits}g}".replace("-", "−")


def note(fig: Figure, text: str) -> None:
    """Write a grey line below the panels that explains bars, dots and filled markers."""
    fig.supxlabel(lines(text), fontsize=7.5, color=GREY)


def lines(text: str) -> str:
    """Break a note into lines that fit the width of the figure."""
    return textwrap.fill(text, 118)
