"""Charts of numbers about attributions: Pixel Flipping curves and gates. They are available from `fgg.plot`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from fgg.plot.image_arrays import array

COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9")  # Okabe and Ito (2008)
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (8, 2)))


def curve(
    curves: Any,
    ax: Axes | None = None,
    *,
    label: str = "probability of the explained class",
    title: str | None = None,
) -> Axes:
    """Draw Pixel Flipping curves, as means over images; a curve that falls earlier is better.

    Args:
        curves: (steps + 1,) or (B, steps + 1) as in ``fgg.pixel_flipping(…).curve``, or a mapping name -> such values.
        label: label of the y axis.
    """
    named = curves if isinstance(curves, Mapping) else {"": curves}
    ax = plain_axes(ax, (4.2, 2.9))
    for place, (name, values) in enumerate(named.items()):
        mean = np.atleast_2d(array(values)).mean(0)
        colour, dash = COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]
        ax.plot(np.linspace(0, 100, len(mean)), mean, color=colour, linestyle=dash, label=name)
    ax.set(xlabel="patches filled, most relevant first (%)", ylabel=label, title=title or "", xlim=(0, 100))
    ax.set_ylim(bottom=0)
    if len(named) > 1:
        ax.legend(frameon=False)
    return ax


def gates(
    values: Any, ax: Axes | None = None, *, clamp_max: float = 10.0, bins: int = 41, title: str | None = None
) -> Axes:
    """Draw a histogram of gates on a logarithmic axis: above 1 a patch is amplified, below 1 it is damped.

    Args:
        values: gates of any shape, or layer -> gates as in ``fgg.attribute(…).gates``.
        clamp_max: the largest gate, which determines the limits of the axis.
        bins: number of bars.
    """
    named = values if isinstance(values, Mapping) else {"": values}
    ax = plain_axes(ax, (4.2, 2.6))
    edges = np.geomspace(1 / clamp_max, clamp_max, bins + 1)
    for place, (name, own) in enumerate(named.items()):
        inside = np.clip(array(own).ravel(), edges[0], edges[-1])
        colour, dash = COLOURS[1:][place % (len(COLOURS) - 1)], DASHES[place % len(DASHES)]
        weights = np.full(len(inside), 100 / len(inside))
        ax.hist(inside, edges, weights=weights, histtype="stepfilled", facecolor=(colour, 0.25), edgecolor=colour,
                linestyle=dash, label=f"layer {name}" if isinstance(name, int) else str(name))  # fmt: skip
    ax.axvline(1, color="0.3", linewidth=0.8)
    ticks = [1 / clamp_max, clamp_max**-0.5, 1, clamp_max**0.5, clamp_max]
    ax.set(xscale="log", xlabel="gate", ylabel="patches (%)", title=title or "", xlim=(edges[0], edges[-1]))
    ax.set_xticks(ticks)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    if any(name != "" for name in named):
        ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.06, 1.0))
    return ax


def plain_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The given axes, or those of a new figure of the given size in inches."""
    if ax is None:
        from matplotlib import pyplot as plt

        ax = plt.subplots(figsize=size, layout="constrained")[1]
        ax.spines[["top", "right"]].set_visible(False)
    return ax
