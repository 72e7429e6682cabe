"""The parts of a picture of an attribution as arrays: the displayed image, and the relevance on its grid.

Imports neither matplotlib nor torch; tensors are recognised by their methods.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

from fgg.data.images import eight_bit
from fgg.errors import FggError


def relevance_grid(
    relevance: Any, grid: tuple[int, int] | None = None, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Arrange the relevance of one image (N,) on its grid: float64 (rows, columns).

    Args:
        grid: rows and columns; None tries square patches that fit ``size``, then a square grid.
        size: height and width of the model's input, if known.

    Raises:
        FggError: there is more than one image, the values do not fit the grid, or some are NaN or infinite.
    """
    values = array(relevance)
    if grid is not None and values.shape == tuple(grid):
        values = values.reshape(-1)
    if values.ndim == 2 and len(values) == 1:
        values = values[0]
    if values.ndim != 1 or not values.size:
        raise FggError(f"relevance is {values.shape}, expected that of one image, (N,); pick one, such as relevance[0]")
    if not np.isfinite(values).all():
        raise FggError(f"relevance holds {int((~np.isfinite(values)).sum())} NaN or infinite values")
    rows, columns = _guess(values.size, size) if grid is None else grid
    if rows * columns != values.size:
        raise FggError(f"relevance has {values.size} patches, but a grid of {rows} x {columns} has {rows * columns}")
    return values.astype(np.float64).reshape(rows, columns)


def picture(image: Any, preprocess: Any = None, grey: bool = True) -> np.ndarray:
    """The image as displayed: float (H, W), or (H, W, 3) if ``grey`` is off and it has colours; from 0 to 1.

    Grey values are stretched to the whole range, so that dark images are visible too; colours stay unchanged.
    A PIL image is turned upright and cropped to the part that the model saw. The standardisation of a tensor is undone
    with the mean and the standard deviation of ``preprocess``. Without ``preprocess``, a tensor with values beyond 0…1
    is stretched from its smallest to its largest value and shown in grey.

    Raises:
        FggError: ``image`` is not an image.
    """
    if isinstance(image, Image.Image):
        upright = eight_bit(image)
        if preprocess is not None:
            upright = upright.crop(seen_box(upright.size, preprocess))
        return _stretched(np.asarray(upright.convert("L") if grey else upright, dtype=np.float64) / 255)
    values = array(image)
    if values.ndim == 4 and len(values) == 1:
        values = values[0]
    if not _is_planes(values) and values.ndim != 2 and not (values.ndim == 3 and values.shape[2] in (1, 3)):
        raise FggError(
            f"an image is (H, W), (H, W, 3), (C, H, W) with 1 or 3 channels, or a PIL image; not {values.shape}"
        )
    if _is_planes(values):
        values = values.transpose(1, 2, 0)
        if preprocess is not None and preprocess.mean is not None:
            values = values * np.array(preprocess.std) + np.array(preprocess.mean)
        if preprocess is not None and preprocess.grey_first:
            values = values[..., 0]  # the others are distances from it
    values = values / 255 if values.dtype == np.uint8 else values.astype(np.float64)
    if not np.isfinite(values).all():
        raise FggError("the image holds NaN or infinite values")
    beyond = values.min() < -1e-3 or values.max() > 1 + 1e-3
    if values.ndim == 3 and (grey or beyond or values.shape[2] == 1):
        values = values @ np.array([0.299, 0.587, 0.114]) if values.shape[2] == 3 else values[..., 0]
    if beyond:
        values = (values - values.min()) / (np.ptp(values) or 1.0)
    return _stretched(values.clip(0, 1))


def _stretched(values: np.ndarray) -> np.ndarray:
    """Stretch grey values (H, W) from black to white, except for outliers.

    The factor is at most 4, so as not to amplify noise.
    """
    if values.ndim == 3:
        return values
    low, high = np.quantile(values, (0.005, 0.995))
    middle, span = (low + high) / 2, max(high - low, 0.25)
    start = min(max(middle - span / 2, 0.0), 1.0 - span)
    return ((values - start) / span).clip(0, 1)


def seen_box(size: tuple[int, int], preprocess: Any) -> tuple[int, int, int, int]:
    """The part of a picture of (width, height) that remains after resize and centre crop: left, top, right, bottom."""
    (rows, columns), (height, width) = preprocess.resized(*size), preprocess.output_size
    top, left = round((rows - height) / 2), round((columns - width) / 2)
    across, down = size[0] / columns, size[1] / rows
    return round(left * across), round(top * down), round((left + width) * across), round((top + height) * down)


def array(values: Any) -> np.ndarray:
    """Convert a tensor on any device, or a list, to an array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


def _is_planes(values: np.ndarray) -> bool:
    return values.ndim == 3 and values.shape[0] in (1, 3) and values.shape[2] not in (1, 3)


def input_size(image: Any, preprocess: Any) -> tuple[int, int] | None:
    """Height and width of the model's input; None if they are not known."""
    if preprocess is not None:
        return preprocess.output_size
    shape = () if isinstance(image, Image.Image) else array(image).shape
    if len(shape) == 4:
        shape = shape[1:]
    return (shape[1], shape[2]) if len(shape) == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3) else None


def _guess(patches: int, size: tuple[int, int] | None) -> tuple[int, int]:
    side = math.isqrt(patches)
    if size is not None:
        rows = round(math.sqrt(patches * size[0] / size[1]))
        if rows and patches % rows == 0 and rows * size[1] == patches // rows * size[0]:
            return rows, patches // rows
    if side * side != patches:
        raise FggError(f"relevance has {patches} patches, which make no square; give grid=(rows, columns)")
    return side, side
