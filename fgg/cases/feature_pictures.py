"""The pictures on feature pages, as data URIs, so that a page is one file: outlined patches, and their surroundings."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from fgg.report.figures import style
from fgg.report.html import data_uri

WHOLE = 200  # pixels across the picture of an image
NEAR = 72  # and of a patch with its surroundings
AROUND = 1  # patches on each side of a patch
QUALITY = 80  # of WebP


class Seen(NamedTuple):
    """A patch as a page shows it: data URIs of the image with the patch outlined, and of the patch with its neighbours."""

    whole: str
    near: str
    width: int
    height: int


def outlined(picture: np.ndarray, patch: int, grid: tuple[int, int]) -> Seen:
    """The pictures of a patch.

    Args:
        picture: (H, W) or (H, W, 3), from 0 to 1: the whole image as the model saw it.
        patch: index of the patch, row by row.
        grid: rows and columns of patches.
    """
    image = Image.fromarray((picture.clip(0, 1) * 255).round().astype(np.uint8)).convert("RGB")
    rows, columns = grid
    row, column = divmod(patch, columns)
    height = max(1, round(WHOLE * image.height / image.width))
    whole = image.resize((WHOLE, height), Image.Resampling.BICUBIC)
    across, down = WHOLE / columns, height / rows
    _outline(whole, (column * across, row * down, (column + 1) * across, (row + 1) * down))

    wide, tall = min(columns, 2 * AROUND + 1), min(rows, 2 * AROUND + 1)
    left, top = min(max(0, column - AROUND), columns - wide), min(max(0, row - AROUND), rows - tall)
    across, down = image.width / columns, image.height / rows
    box = (left * across, top * down, (left + wide) * across, (top + tall) * down)
    high = max(1, round(NEAR * tall * down / (wide * across)))
    near = image.resize((NEAR, high), Image.Resampling.BICUBIC, box=box)
    across, down = near.width / wide, near.height / tall
    start, upper = (column - left) * across, (row - top) * down
    _outline(near, (start, upper, start + across, upper + down))
    return Seen(webp(whole), webp(near), WHOLE, height)


def _outline(image: Image.Image, box: tuple[float, float, float, float]) -> None:
    """Draw a yellow frame between two black lines, which shows on light and on dark images."""
    left, top, right, bottom = (round(value) for value in box)
    draw = ImageDraw.Draw(image)
    for out, colour in ((3, "black"), (2, style.YELLOW), (1, style.YELLOW), (0, "black")):
        corner = (min(right - 1 + out, image.width - 1), min(bottom - 1 + out, image.height - 1))
        start = (max(0, left - out), max(0, top - out))
        if corner[0] > start[0] and corner[1] > start[1]:
            draw.rectangle((*start, *corner), outline=colour)


def webp(image: Image.Image) -> str:
    """A picture as a WebP data URI; equal pictures give equal text."""
    kept = io.BytesIO()
    image.save(kept, format="webp", quality=QUALITY, method=4)
    return data_uri(kept.getvalue(), "webp")


class Bar(NamedTuple):
    """A bar of a histogram: its place and height in the drawing, from 0 to 1, and what it counts in words."""

    left: float
    width: float
    height: float
    words: str


def bars(counts: Any, highest: float) -> list[Bar]:
    """The bars of a histogram of activations from 0 to the highest."""
    most, size = max(1, max(counts, default=0)), len(counts)
    step = highest / max(1, size)
    return [
        Bar(at / size, 1 / size, count / most, f"{count} patches from {at * step:.3g} to {(at + 1) * step:.3g}")
        for at, count in enumerate(counts)
    ]
