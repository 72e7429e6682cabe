"""Channels that are computed from a grey image and keep thin structures: extremes, and dark lines.

Images beyond `MOST_PIXELS` are read in bands (extremes), or reduced by a whole factor first (dark lines), so that time and
memory stay bounded.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

# As shares of the image's shorter side:
LINE_WIDTHS = (0.03, 0.07)
NEIGHBOURHOOD = 0.1
DARKEST = 0.05  # added to a neighbourhood's brightness, so that noise in black areas is not amplified
MOST_PIXELS = 2**24  # 4096 x 4096: more than most cameras take


def tensor_of(image: Image.Image) -> Tensor:
    """(C, H, W) float32 in 0…1 of an image of mode L, RGB or F."""
    values = np.asarray(image)
    values = values.astype(np.float32) / (255 if values.dtype == np.uint8 else 1)
    return torch.from_numpy(values[None] if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1)))


def extremes(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """Mean, mean - minimum and maximum - mean of each cell: an image of mode L or F -> (3, H, W) in 0…1."""
    (width, height), (rows, columns) = image.size, size
    if width * height <= MOST_PIXELS or width < columns or height < rows:
        return _pooled_extremes(_large_enough(tensor_of(_bounded(image, size)), size), size)
    # The cells of adaptive pooling, a row of them at a time.
    edges = [(row * height // rows, -(-(row + 1) * height // rows)) for row in range(rows)]
    bands = (tensor_of(image.crop((0, top, width, bottom))) for top, bottom in edges)
    return torch.cat([_pooled_extremes(band, (1, columns)) for band in bands], dim=1)


def dark_lines(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """Grey image and depth of dark lines of two widths, pooled: an image of mode L or F -> (3, H, W) in 0…1."""
    from scipy import ndimage

    image = _bounded(image, size)
    grey = _large_enough(tensor_of(image), size)
    values, stored = grey[0].numpy(), np.asarray(image)
    whole = (
        stored.dtype == np.uint8 and stored.shape == values.shape
    )  # extremes of bytes are those of the numbers, sooner
    source = stored if whole else values

    def odd(share: float) -> int:
        return 2 * max(1, int(share * min(values.shape) / 2)) + 1

    around = ndimage.uniform_filter(values, odd(NEIGHBOURHOOD)) + DARKEST
    closed = [closing(source, odd(width)).astype(np.float32) / (255 if whole else 1) for width in LINE_WIDTHS]
    channels = np.stack([values, *((lines - values) / around for lines in closed)])
    return functional.adaptive_avg_pool2d(torch.from_numpy(channels), size).clamp(0, 1)


def closing(values: np.ndarray, width: int) -> np.ndarray:
    """Grey closing of an array (H, W) by a square of odd ``width``: the smallest of the largest neighbours.

    Equals `scipy.ndimage.grey_closing`, in a sixth of the time. Windows end at the borders.
    """
    for extreme in (np.maximum, np.minimum):
        for axis in (0, 1):
            values = _running(values, width, axis, extreme)
    return values


def _running(values: np.ndarray, width: int, axis: int, extreme: np.ufunc) -> np.ndarray:
    """The extreme of each window along an axis, by windows that double: every pass joins two shorter ones."""
    padding = [(0, 0), (0, 0)]
    padding[axis] = (width // 2, width // 2)
    # The edge's value, repeated, is in every window that reaches beyond the edge.
    found, covered = np.pad(values, padding, mode="edge"), 1
    while covered < width:
        step = min(covered, width - covered)
        last = found.shape[axis] - step
        found = extreme(found[:last], found[step:]) if axis == 0 else extreme(found[:, :last], found[:, step:])
        covered += step
    return found


def _pooled_extremes(grey: Tensor, size: tuple[int, int]) -> Tensor:
    mean = functional.adaptive_avg_pool2d(grey, size)
    high = functional.adaptive_max_pool2d(grey, size)
    low = -functional.adaptive_max_pool2d(-grey, size)
    return torch.cat([mean, mean - low, high - mean]).clamp(0, 1)  # rounding can leave -1e-8


def _bounded(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image, averaged over boxes of whole pixels if it has, or would be enlarged to, more than `MOST_PIXELS`."""
    width, height = image.size
    across = down = max(1, math.ceil(math.sqrt(width * height / MOST_PIXELS)))
    rows, columns = max(-(-height // down), size[0]), max(-(-width // across), size[1])
    if rows * columns > MOST_PIXELS:  # a strip, of which only the longer side can be reduced
        if width > height:
            across = math.ceil(width * rows / MOST_PIXELS)
        else:
            down = math.ceil(height * columns / MOST_PIXELS)
    return image if across == down == 1 else image.reduce((across, down))


def _large_enough(grey: Tensor, size: tuple[int, int]) -> Tensor:
    """The image (1, h, w), enlarged if it has fewer pixels than cells, since pooling cannot enlarge."""
    enlarged = (max(grey.shape[1], size[0]), max(grey.shape[2], size[1]))
    if enlarged == tuple(grey.shape[1:]):
        return grey
    return functional.interpolate(grey[None], enlarged, mode="bilinear", align_corners=False)[0]
