"""The maps of a batch of images: a figure for `fgg.Attribution.show`, and a table of small pictures for notebooks."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import colormaps
from PIL import Image

from fgg.errors import FggError
from fgg.html_tables import html_table
from fgg.plot.image_arrays import array, input_size, relevance_grid
from fgg.plot.maps import MAP, SIDE, overlay, show

MOST = 8  # images in a figure or a table unless the caller asks for more
SHORT = 1.7  # width in inches of a map without its image
SMALL = 84  # height in pixels of a small picture
SCALE = "each map has its own scale"


def batch(
    relevance: Any,
    images: Any = None,
    *,
    names: Sequence[str] | None = None,
    preprocess: Any = None,
    grid: tuple[int, int] | None = None,
    most: int = MOST,
    smooth: bool = False,
) -> np.ndarray:
    """Draw the first maps of a batch: each image and, beside it, the map over it; without images, the maps alone.

    Every map has the whole range of colours, from 0 (or its smallest value, if that is negative) to its largest value:
    colours of two maps do not compare, only places do.

    Args:
        relevance: (B, N), patches row by row.
        images: B images: `fgg.example_run(…).images(…)`, a tensor (B, C, H, W), or PIL images.
        names: names of the images.
        preprocess: the `fgg.Preprocess` of the model, as in `fgg.plot.overlay`; known for images of a run.
        grid: rows and columns of patches; None takes them from the images or a square.
        most: images that are drawn.
        smooth: interpolate between patches.

    Returns:
        The axes: (images, 2) with images, (1, maps) without.

    Raises:
        FggError: the numbers of maps, images and names differ, ``most`` is below 1, or one of them cannot be drawn.
    """
    if most < 1:
        raise FggError(f"most is {most}; give the number of images to draw, at least 1")
    maps = array(relevance)
    if maps.ndim != 2 or not len(maps):
        raise FggError(f"relevance is {maps.shape}, expected (images, patches) with at least one image")
    preprocess = getattr(images, "preprocess", None) if preprocess is None else preprocess
    names = getattr(images, "image_ids", None) if names is None else names
    for what, given in (("images", images), ("names", names)):
        if given is not None and len(given) != len(maps):
            raise FggError(f"{len(given)} {what} for {len(maps)} maps; give one for each map")
    count = min(len(maps), most)
    if images is None:
        return _alone(maps[:count], names, grid, smooth)
    across = 1 if count < 3 else 2  # images side by side
    every = _figure(-(-count // across), 2 * across, across * (2 * SIDE + 0.9), SIDE * 0.86).reshape(-1, 2)
    for ax in every[count:].flat:
        ax.remove()
    axes = every[:count]
    for place, row in enumerate(axes):
        image = images.picture(place) if hasattr(images, "picture") else images[place]
        size = input_size(image, preprocess)
        show(image, row[0], preprocess=preprocess)
        overlay(
            image, maps[place], row[1], grid=relevance_grid(maps[place], grid, size).shape, preprocess=preprocess,
            smooth=smooth,
        )  # fmt: skip
        row[0].set_ylabel("" if names is None else str(names[place]), fontsize=8, parse_math=False)
    for pair in axes[:across]:
        pair[0].set_title("image", fontsize=9)
        pair[1].set_title(f"relevance ({SCALE})" if count > 1 else "relevance", fontsize=9)
    return axes


def _alone(maps: np.ndarray, names: Sequence[str] | None, grid: tuple[int, int] | None, smooth: bool) -> np.ndarray:
    """The maps side by side."""
    axes = _figure(1, len(maps), SHORT * len(maps), SHORT + 0.1)
    for place, ax in enumerate(axes[0]):
        values = relevance_grid(maps[place], grid)
        ax.imshow(values, cmap=MAP, vmin=min(0.0, values.min()), interpolation="bilinear" if smooth else "nearest")
        ax.spines[:].set_visible(False)
        ax.set(xticks=[], yticks=[])
        ax.set_title(str(place) if names is None else str(names[place]), fontsize=8, parse_math=False)
    axes[0, 0].figure.supxlabel(f"bright: more relevance; {SCALE}", fontsize=8)
    return axes


def _figure(rows: int, columns: int, width: float, height: float) -> np.ndarray:
    from matplotlib import pyplot as plt

    size = (width, rows * height + 0.3)
    axes: Any = plt.subplots(rows, columns, squeeze=False, figsize=size, layout="constrained")[1]
    return axes


def batch_html(found: Any) -> str:
    """A table of the first maps of an `fgg.Attribution`, with small pictures of the maps and, if it is gated, of the gates."""
    images = len(found.relevance)
    layers = list(found.gates)
    gated = f", gates at layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}" if layers else ""
    rest = f"; the first {MOST} are shown" if images > MOST else ""
    caption = (
        f"Attribution: {images} images, {found.relevance.shape[1]} patches{gated}{rest}. Bright: more relevance; {SCALE}."
        + (" Gates: red above 1, blue below." if layers else "")
    )
    columns = ["image", "predicted class", "probability", "explained class", "most relevant patch", "map"]
    rows = []
    for place in range(min(images, MOST)):
        values = array(found.relevance[place])
        finite = bool(np.isfinite(values).all())
        rows.append(
            [
                place, int(found.predicted[place]), f"{float(found.confidence[place]):.0%}", int(found.target[place]),
                int(values.argmax()) if finite else "undefined", _small(values, found.grid),
                *(_small(array(found.gates[layer][place]), found.grid, gate=True) for layer in layers),
            ]
        )  # fmt: skip
    columns += [f"gate, layer {layer}" for layer in layers]
    return str(html_table(columns, rows, caption))


def _small(values: np.ndarray, grid: tuple[int, int] | None, gate: bool = False) -> Any:
    """A small picture of a map; of gates on a logarithmic scale, white at 1, red for more and blue for less."""
    if not np.isfinite(values).all():
        return f"{int((~np.isfinite(values)).sum())} values are NaN or infinite"
    try:
        shaped = relevance_grid(values, grid)
    except FggError:  # patches of no known grid: the numbers are in the table, a picture is not to be had
        return f"{len(values)} patches in an unknown grid"
    if gate:
        shaped = np.log(shaped)
        most = np.abs(shaped).max() or 1.0
        colours = colormaps["RdBu_r"](shaped / (2 * most) + 0.5)
    else:
        low = min(0.0, shaped.min())
        colours = colormaps[MAP]((shaped - low) / ((shaped.max() - low) or 1.0))
    picture = Image.fromarray((colours[..., :3] * 255).round().astype(np.uint8))
    rows, columns = shaped.shape
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    form = '<img src="data:image/png;base64,{}" width="{}" height="{}" style="image-rendering: pixelated" alt="{}">'
    return Markup(form).format(data, round(SMALL * columns / rows), SMALL, "gates" if gate else "map")
