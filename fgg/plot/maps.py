"""Pictures of attributions, for notebooks and figures. Every function draws on matplotlib axes and returns them.

Relevance belongs to patches: (N,), row by row, as `fgg.attribute` gives it for one image. Images may be PIL
images, (H, W) or (H, W, 3) arrays, or tensors (C, H, W); they are shown in grey under a transparent map, unless
``grey=False`` asks for their colours. No global state is changed, neither the backend nor a style.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, patheffects
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fgg.errors import FggError
from fgg.plot.curves import curve, gates, plain_axes
from fgg.plot.image_arrays import input_size, picture, relevance_grid, seen_box

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MAP = "magma"  # perceptually uniform, and brighter with more relevance, also in greyscale
DIFFERENCE_MAP = "RdBu_r"  # red for more relevance, blue for less; safe for the colour-blind
ALPHA = 0.6
LIFT = 0.25  # how much black is lightened under a map, which is dark where there is little relevance
SIDE = 2.6  # width in inches of a map without its colour bar
__all__ = [
    "compare", "curve", "difference", "gates", "mark", "overlay", "picture", "relevance_grid", "seen_box", "show",
]  # fmt: skip


def overlay(
    image: Any,
    relevance: Any,
    ax: Axes | None = None,
    *,
    grid: tuple[int, int] | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    colorbar: bool = True,
    label: str = "relevance",
    title: str | None = None,
    preprocess: Any = None,
    smooth: bool = False,
    alpha: float = ALPHA,
    grey: bool = True,
) -> Axes:
    """Draw relevance over the image; dark means little, bright means much.

    Args:
        image: PIL image, (H, W), (H, W, 3) or (C, H, W); see `picture`.
        relevance: (N,), patches row by row.
        ax: axes to draw on; None makes a figure.
        grid: rows and columns of patches; None takes them from the image or a square.
        vmin: value of the darkest colour; None takes 0, or the smallest value if some are negative.
        vmax: value of the brightest colour; None takes the largest value.
        colorbar: draw a colour bar with ``label``.
        title: title of the axes.
        preprocess: a `fgg.data.preprocess.Preprocess`, used to crop a picture to the part that the model saw, and to
            convert a tensor back to grey values.
        smooth: interpolate between patches; False shows each patch in a single colour.
        alpha: opacity of the map, from 0 to 1.
        grey: show the image in grey, so that all colours are those of the map; False keeps the image's colours.

    Raises:
        FggError: the number of patches does not fit, a value is NaN, or ``image`` is not an image.
    """
    values = relevance_grid(relevance, grid, input_size(image, preprocess))
    low = min(0.0, float(values.min())) if vmin is None else vmin
    high = float(values.max()) if vmax is None else vmax
    ax = _axes(ax, LIFT + (1 - LIFT) * picture(image, preprocess, grey), title, colorbar)
    _map(ax, values, _rising(alpha), low, high if high > low else low + 1, smooth, label if colorbar else None)
    return ax


def difference(
    image: Any,
    before: Any,
    after: Any,
    ax: Axes | None = None,
    *,
    grid: tuple[int, int] | None = None,
    vmax: float | None = None,
    colorbar: bool = True,
    label: str = "change in relevance",
    title: str | None = None,
    preprocess: Any = None,
    smooth: bool = False,
    alpha: float = ALPHA,
    grey: bool = True,
) -> Axes:
    """Draw the change from one map to another: red means more relevance, blue less; the scale is symmetric about 0.

    Args:
        before: (N,), subtracted from ``after``.
        after: (N,).
        vmax: the change with the strongest colour; None takes the largest change.

    The other arguments, and the errors, are those of `overlay`.
    """
    size = input_size(image, preprocess)
    values = relevance_grid(after, grid, size) - relevance_grid(before, grid, size)
    most = float(np.abs(values).max()) if vmax is None else vmax
    most = most if most > 0 else 1.0
    ax = _axes(ax, LIFT + (1 - LIFT) * picture(image, preprocess, grey), title, colorbar)
    _map(ax, values, _fading(alpha), -most, most, smooth, label if colorbar else None)
    return ax


def mark(
    ax: Axes,
    patch: int | Sequence[int],
    grid: tuple[int, int] | None = None,
    image_size: tuple[int, int] | None = None,
    *,
    color: str = "#56B4E9",
    text: str | None = None,
    linewidth: float = 1.6,
) -> Axes:
    """Outline a patch, or several, on axes that show an image.

    Args:
        patch: one or several indices, from 0, row by row.
        grid: rows and columns of patches; None takes those of the map drawn on the axes.
        image_size: height and width of the displayed image; None takes them from the axes.
        color: colour of the outline; a dark edge makes it visible on any background.
        text: text beside the first patch.
        linewidth: width of the outline, in points; its dark edge is twice as wide.

    Raises:
        FggError: a patch is outside the grid, or the axes have no image.
    """
    if not ax.images and (grid is None or image_size is None):
        raise FggError("mark: these axes show no image; draw an overlay first, or give grid and image_size")
    rows, columns = ax.images[-1].get_array().shape[:2] if grid is None else grid
    height, width = ax.images[0].get_array().shape[:2] if image_size is None else image_size
    tall, wide = height / rows, width / columns
    for place, index in enumerate([patch] if isinstance(patch, int | np.integer) else patch):
        if not 0 <= index < rows * columns:
            raise FggError(
                f"mark: patch {index} is beyond the grid of {rows} x {columns}; patches are 0 to {rows * columns - 1}"
            )
        top, left = index // columns * tall - 0.5, index % columns * wide - 0.5
        edge = Rectangle((left, top), wide, tall, fill=False, edgecolor=color, linewidth=linewidth, zorder=4)
        dark = patheffects.Stroke(linewidth=2 * linewidth, foreground="black")
        edge.set_path_effects([dark, patheffects.Normal()])
        ax.add_patch(edge)
        if text and not place:
            right = left + wide / 2 < width / 2
            written = ax.annotate(
                text, (left + wide if right else left, top + tall / 2), xytext=(4 if right else -4, 0),
                textcoords="offset points", ha="left" if right else "right", va="center", color="white", zorder=5,
            )  # fmt: skip
            written.set_path_effects([patheffects.Stroke(linewidth=2, foreground="black"), patheffects.Normal()])
    return ax


def compare(
    image: Any,
    before: Any,
    after: Any,
    axes: Sequence[Axes] | None = None,
    *,
    grid: tuple[int, int] | None = None,
    names: tuple[str, str] = ("TransMM", "gated"),
    preprocess: Any = None,
    patch: int | Sequence[int] | None = None,
    one_scale: bool = False,
    smooth: bool = False,
    shares: bool = False,
) -> np.ndarray:
    """Draw the image, the map before, the map after and the difference side by side; return the four axes.

    Args:
        axes: four axes to draw on; None makes a figure.
        names: titles of the two maps.
        patch: a patch, or several, to outline in every panel.
        one_scale: use the same colour scale for both maps. By default each map uses the whole range, since a gate
            raises relevance so much that the map before would be invisible.
        shares: divide each map by the sum of the sizes of its values, so that both can be compared: per cent of the
            relevance on one scale, and the difference in percentage points. A map that is 0 everywhere stays so.

    The other arguments, and the errors, are those of `overlay`.
    """
    if axes is None:
        from matplotlib import pyplot as plt

        axes = plt.subplots(1, 4, figsize=(4 * SIDE + 2.2, SIDE + 0.45), layout="constrained")[1]
    four = np.asarray(axes)
    size = input_size(image, preprocess)
    shared: dict[str, Any] = {
        "grid": relevance_grid(before, grid, size).shape,
        "preprocess": preprocess,
        "smooth": smooth,
    }
    before, after = relevance_grid(before, grid, size), relevance_grid(after, grid, size)
    labels = "relevance", "change in relevance"
    if shares:
        before, after = (100 * values / (np.abs(values).sum() or 1.0) for values in (before, after))
        labels = "share of relevance (%)", "change (points)"
    most = max(float(values.max()) for values in (before, after)) if one_scale or shares else None
    least = min(0.0, float(before.min()), float(after.min())) if shares else None
    show(image, four[0], title="image", preprocess=preprocess)
    overlay(image, before, four[1], title=names[0], vmin=least, vmax=most, label=labels[0], **shared)
    overlay(image, after, four[2], title=names[1], vmin=least, vmax=most, label=labels[0], **shared)
    difference(image, before, after, four[3], title=f"{names[1]} minus {names[0]}", label=labels[1], **shared)
    if patch is not None:
        for ax in four:
            mark(ax, patch, shared["grid"])
    return four


def show(image: Any, ax: Axes | None = None, *, title: str | None = None, preprocess: Any = None) -> Axes:
    """Draw the image alone, in colour if it has colours; arguments and errors are those of `overlay`."""
    return _axes(ax, picture(image, preprocess, grey=False), title, colorbar=False)


def _axes(ax: Axes | None, shown: np.ndarray, title: str | None, colorbar: bool) -> Axes:
    """Axes that show the image, without ticks."""
    ax = plain_axes(ax, (SIDE + (0.9 if colorbar else 0), SIDE + 0.3))
    ax.imshow(shown, cmap="gray", vmin=0, vmax=1)
    ax.spines[:].set_visible(False)
    ax.set(xticks=[], yticks=[])
    if title:
        ax.set_title(title)
    return ax


def _map(
    ax: Axes,
    values: np.ndarray,
    colours: Colormap,
    low: float,
    high: float,
    smooth: bool,
    label: str | None,
) -> None:
    """Draw the map over the image on the axes, with a colour bar if there is a label."""
    height, width = ax.images[0].get_array().shape[:2]
    drawn = ax.imshow(
        values, cmap=colours, vmin=low, vmax=high, interpolation="bilinear" if smooth else "nearest",
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
    )  # fmt: skip
    if label is None:
        return
    most = max(abs(low), abs(high))
    power = int(np.floor(np.log10(most)))
    power = 0 if -4 < power < 4 else power  # above the colour bar, it would move the next picture
    bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.046, pad=0.03, aspect=22)
    bar.locator, bar.formatter = MaxNLocator(4), FuncFormatter(lambda value, _: f"{value / 10.0**power:g}")
    bar.outline.set_visible(False)
    bar.ax.set_facecolor("0.55")  # as if over a grey image
    bar.set_label(f"{label} (×10{str(power).translate(RAISED)})" if power else label)
    bar.update_ticks()


def _rising(alpha: float) -> Colormap:
    """The colours of a map; they are more opaque where there is more relevance, so that the image stays visible."""
    colours = colormaps[MAP](np.linspace(0, 1, 256))
    colours[:, 3] = np.linspace(alpha - 0.1, alpha + 0.1, 256).clip(0, 1)
    return ListedColormap(colours, MAP)


def _fading(alpha: float) -> Colormap:
    """The colours of a difference; they are transparent where the difference is 0."""
    colours = colormaps[DIFFERENCE_MAP](np.linspace(0.06, 0.94, 256))
    colours[:, 3] = ((alpha + 0.3) * np.abs(np.linspace(-1, 1, 256)) ** 0.6).clip(0, 1)
    return ListedColormap(colours, DIFFERENCE_MAP)
