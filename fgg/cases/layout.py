"""The layout of the pictures of the case studies: positions in inches, text, and patches with their surroundings.

All axes have fixed positions, so that all pictures have the same layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from fgg import plot
from fgg.report.figures import style

DPI = 150
STEP = 5  # of colour values, from 0 to 255
LEFT = 0.12  # margin, in inches
WARNING = 0.16  # height of a line of the head, in inches
CONTEXT = 2  # patches shown on each side of a patch


@dataclass(frozen=True)
class Patch:
    """A patch of a picture, with the text below it.

    Attributes:
        picture: (H, W) or (H, W, 3), from 0 to 1: the whole image as the model saw it.
        patch: index of the patch, row by row.
        grid: rows and columns of patches.
        lines: lines of text below the patch.
    """

    picture: np.ndarray
    patch: int
    grid: tuple[int, int]
    lines: Sequence[str] = ()


@contextmanager
def figure(height: float) -> Iterator[tuple[Any, Any]]:
    """Yield a figure of the common width, and a function that adds axes: left, distance from the top, width, height."""
    with matplotlib.rc_context(style.RC):
        fig = Figure(figsize=(style.WIDTH, height), dpi=DPI)

        def place(left: float, top: float, width: float, tall: float) -> Any:
            return fig.add_axes((_x(left), 1 - (top + tall) / height, _x(width), tall / height))

        yield fig, place


def save(fig: Any, path: Path) -> None:
    """Write a PNG. Its colours are rounded to steps of 2 %, which are invisible and halve the file size."""
    style.literal(fig)
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    colours = np.asarray(canvas.buffer_rgba())[..., :3].astype(np.uint16)
    Image.fromarray(((colours + STEP // 2) // STEP * STEP).astype(np.uint8)).save(path, format="png", compress_level=6)


def _x(inches: float) -> float:
    return inches / style.WIDTH


def say(fig: Any, left: float, top: float, text: str, **look: Any) -> None:
    """Write a line at the given distances from the left and the top, in inches."""
    height = fig.get_size_inches()[1]
    fig.text(_x(left), 1 - top / height, text, va="center", **look)


def head(fig: Any, title: str, *lines: str, warning: str = "") -> None:
    """Write a title and lines below it; and last a warning, if there is one, for which the head needs `WARNING` inches more."""
    say(fig, LEFT, 0.13, title, weight="bold", fontsize=9.5)
    for number, text in enumerate(lines):
        say(fig, LEFT, 0.31 + WARNING * number, text, color=style.BLACK if number else style.GREY)
    if warning:
        text = start_of(f"Warning: {warning}", 118)
        say(fig, LEFT, 0.31 + WARNING * len(lines), text, color=style.VERMILION, weight="bold", fontsize=7)


def tile(axis: Any, own: Patch, colour: str) -> None:
    """Draw an outlined patch with its surroundings, and its lines of text below."""
    (rows, columns), (height, width) = own.grid, own.picture.shape[:2]
    down, across = min(rows, 2 * CONTEXT + 1), min(columns, 2 * CONTEXT + 1)
    row, column = divmod(own.patch, columns)
    first_row = min(max(0, row - CONTEXT), rows - down)
    first_column = min(max(0, column - CONTEXT), columns - across)
    top, bottom = (round(r * height / rows) for r in (first_row, first_row + down))
    left, right = (round(c * width / columns) for c in (first_column, first_column + across))
    part = own.picture[top:bottom, left:right]
    axis.imshow(part, cmap="gray", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    inside = (row - first_row) * across + column - first_column
    plot.mark(axis, inside, (down, across), part.shape[:2], color=colour, linewidth=0.9)
    axis.set_xlabel("\n".join(start_of(line, 16) for line in own.lines), fontsize=6.5, labelpad=2, linespacing=1.15)


def start_of(text: str, most: int) -> str:
    """The start of a text, at most ``most`` letters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def end_of(text: str, most: int) -> str:
    """The end of a text, at most ``most`` letters."""
    return text if len(text) <= most else f"…{text[1 - most :]}"
