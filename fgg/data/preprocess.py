"""Turn a PIL image into a model's input."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from fgg.data.images import decode, standard
from fgg.errors import FggError

__all__ = ["Preprocess", "decode", "statistics"]

SHORTER = "shorter"
CHANNELS = {"rgb": 3, "grey": 1, "extremes": 3, "dark_lines": 3}
GREY_FIRST = ("extremes", "dark_lines")  # the first channel is the grey image, the others are computed from it
# As shares of the image's shorter side:
LINE_WIDTHS = (0.03, 0.07)
NEIGHBOURHOOD = 0.1
DARKEST = 0.05  # added to a neighbourhood's brightness, so that noise in black areas is not amplified
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop and standardise an image of any mode that `fgg.data.images.standard` takes.

    ``size`` is (H, W), or one number for a square; the aspect ratio is not kept. With {"shorter": n}, the shorter side
    becomes n and the aspect ratio is kept; a crop is then required. ``crop`` is the side of the centre crop after it.

    ``channels`` is rgb (3), grey (1), extremes (3) or dark_lines (3). Extremes are the grey image pooled to the mean,
    mean - minimum and maximum - mean of each cell. Dark lines are the grey image, and the depth of dark lines of up to
    3 % and of up to 7 % of the image's side: how much darker they are than their surroundings (black top-hat, Meyer
    1979), relative to the brightness around them.

    The reason: thin structures, such as the cracks of a solar cell, are one or two pixels wide. Averaging over a cell
    of 4 x 4 pixels leaves a quarter of their contrast or less. The distance from the cell's mean to its darkest and
    brightest pixel keeps all of it, and the top-hat keeps only these structures.

    Raises:
        FggError: a setting is unknown, or does not fit the others.
    """

    size: Any
    crop: int | None = None
    channels: str = "rgb"
    interpolation: str = "bilinear"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.size, Mapping):
            size = self._shorter()
        else:
            size = (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)
            object.__setattr__(self, "size", size)
        if len(size) != 2 or min(size) < 1:
            raise FggError(f"preprocess.resize: {self.size} is not a height and a width in pixels")
        if self.crop is not None and not 1 <= self.crop <= min(size):
            raise FggError(f"preprocess.crop: {self.crop} is larger than the resized image {size}; lower it")
        for key, allowed in (("channels", CHANNELS), ("interpolation", INTERPOLATIONS)):
            if getattr(self, key) not in allowed:
                raise FggError(
                    f"preprocess.{key}: {getattr(self, key)!r} is unknown; choose from: {', '.join(allowed)}"
                )
        for key in ("mean", "std"):
            values = getattr(self, key)
            if values is None:
                continue
            object.__setattr__(self, key, tuple(float(value) for value in values))
            if len(values) != self.n_channels:
                raise FggError(
                    f"preprocess.{key}: {len(values)} values, but channels {self.channels!r} have {self.n_channels}; "
                    "give one value per channel"
                )
        if self.std is not None and min(self.std) <= 0:
            raise FggError(f"preprocess.std: {self.std} must be above 0")

    def _shorter(self) -> tuple[int, int]:
        """The minimum size of a resized image if the aspect ratio is kept."""
        if set(self.size) != {SHORTER} or not isinstance(self.size[SHORTER], int):
            raise FggError(f"preprocess.resize: {self.size} is not {{{SHORTER}: PIXELS}}")
        if self.crop is None:
            raise FggError(
                "preprocess.crop: required if resize keeps the aspect ratio; give the side of the centre crop"
            )
        if self.channels in GREY_FIRST:
            raise FggError(
                f"preprocess.channels: {self.channels!r} needs cells of equal shape; give preprocess.resize as a size"
            )
        return self.size[SHORTER], self.size[SHORTER]

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """(H, W) to which an image of that width and height is resized."""
        if not isinstance(self.size, Mapping):
            return self.size
        short = self.size[SHORTER]
        longer = int(short * max(width, height) / min(width, height))
        return (longer, short) if height > width else (short, longer)

    @property
    def n_channels(self) -> int:
        """C of the output."""
        return CHANNELS[self.channels]

    @property
    def grey_first(self) -> bool:
        """Whether the first channel is the grey image, and the others are computed from it."""
        return self.channels in GREY_FIRST

    @property
    def output_size(self) -> tuple[int, int]:
        """(H, W) of the output, after the crop."""
        return tuple(self.size) if self.crop is None else (self.crop, self.crop)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON can hold them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Preprocess:
        """The reverse of `to_dict`. Raises FggError for a missing or unknown key."""
        unknown = sorted(set(settings) - {field.name for field in dataclasses.fields(cls)})
        if unknown or "size" not in settings:
            raise FggError(f"preprocess: {'unknown ' + ', '.join(unknown) if unknown else '`size` is missing'}")
        return cls(**settings)

    def pixels(self, image: Image.Image) -> Tensor:
        """The input before it is standardised: (C, H, W) float32 in 0…1."""
        image = standard(image)
        if self.channels in GREY_FIRST:
            make = _extremes if self.channels == "extremes" else _dark_lines
            pixels = make(_tensor(image if image.mode == "F" else image.convert("L")), self.size)
        else:
            pixels = self._resized(image)
        return self._cropped(pixels)

    def area(self, mask: Image.Image) -> Tensor:
        """The share of each pixel of the input that lies inside a mask: float32 (H, W), resized and cropped like `pixels`.

        Args:
            mask: of mode L; inside where it is not 0.
        """
        inside = (np.asarray(mask) > 0).astype(np.float64)
        height, width = self.resized(*mask.size)
        resized = _overlaps(height, inside.shape[0]) @ inside @ _overlaps(width, inside.shape[1]).T
        return self._cropped(torch.from_numpy(resized)[None])[0].float().clamp(0, 1)

    def _cropped(self, pixels: Tensor) -> Tensor:
        height, width = self.output_size
        top, left = round((pixels.shape[1] - height) / 2), round((pixels.shape[2] - width) / 2)
        return pixels[:, top : top + height, left : left + width].contiguous()

    def __call__(self, image: Image.Image) -> Tensor:
        """The model's input: (C, H, W) float32, standardised. Raises ValueError before mean and std are known."""
        return self.standardised(self.pixels(image))

    def standardised(self, pixels: Tensor) -> Tensor:
        """Pixels (…, C, H, W) in 0…1, standardised by their channel's mean and std. Raises like `__call__`."""
        if self.mean is None or self.std is None:
            raise ValueError("mean and std are not known yet; measure them with `statistics`")
        return (pixels - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]

    def _resized(self, image: Image.Image) -> Tensor:
        if image.mode != "F":
            image = image.convert("RGB" if self.channels == "rgb" else "L")
        image = image.resize(self.resized(*image.size)[::-1], INTERPOLATIONS[self.interpolation])
        pixels = _tensor(image).clamp(0, 1)  # floats overshoot in bicubic and lanczos; bytes are clipped by PIL
        return pixels.expand(self.n_channels, -1, -1)


def statistics(images: Iterable[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel over all pixels of images (C, H, W), in float64.

    A channel without variation gets a standard deviation of 1, so that division by it works.

    Raises:
        ValueError: there are no images.
    """
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for image in images:
        values = image.double().flatten(1)
        n, own = values.shape[1], values.mean(1)
        # Chan et al.'s update: exact where sums of squares would cancel.
        shift = own - mean
        mean = mean + shift * (n / (count + n))
        squares = squares + (values - own[:, None]).square().sum(1) + shift.square() * (count * n / (count + n))
        count += n
    if not count:
        raise ValueError("there are no images to measure mean and std on")
    deviations = [math.sqrt(value / count) for value in squares.tolist()]
    return tuple(mean.tolist()), tuple(value if value > 1e-8 else 1.0 for value in deviations)


def _overlaps(new: int, old: int) -> np.ndarray:
    """(new, old): which share of each new cell of a line lies over each old cell, if both divide the same length."""
    edges = np.arange(new + 1) * old / new
    starts = np.arange(old)
    shared = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return np.maximum(shared, 0) * new / old


def _tensor(image: Image.Image) -> Tensor:
    """(C, H, W) float32 in 0…1 of an image of mode L, RGB or F."""
    values = np.asarray(image)
    values = values.astype(np.float32) / (255 if values.dtype == np.uint8 else 1)
    return torch.from_numpy(values[None] if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1)))


def _extremes(grey: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean, mean - minimum and maximum - mean of each cell: (1, h, w) -> (3, H, W)."""
    grey = _large_enough(grey, size)
    mean = functional.adaptive_avg_pool2d(grey, size)
    high = functional.adaptive_max_pool2d(grey, size)
    low = -functional.adaptive_max_pool2d(-grey, size)
    return torch.cat([mean, mean - low, high - mean]).clamp(0, 1)  # rounding can leave -1e-8


def _dark_lines(grey: Tensor, size: tuple[int, int]) -> Tensor:
    """Grey image and depth of dark lines of two widths, pooled: (1, h, w) -> (3, H, W)."""
    from scipy import ndimage

    grey = _large_enough(grey, size)
    values = grey[0].numpy()

    def odd(share: float) -> int:
        return 2 * max(1, int(share * min(values.shape) / 2)) + 1

    around = ndimage.uniform_filter(values, odd(NEIGHBOURHOOD)) + DARKEST
    closed = [ndimage.grey_closing(values, (odd(width), odd(width))) for width in LINE_WIDTHS]
    channels = np.stack([values, *((lines - values) / around for lines in closed)])
    return functional.adaptive_avg_pool2d(torch.from_numpy(channels), size).clamp(0, 1)


def _large_enough(grey: Tensor, size: tuple[int, int]) -> Tensor:
    """The image (1, h, w), enlarged if it has fewer pixels than cells, since pooling cannot enlarge."""
    enlarged = (max(grey.shape[1], size[0]), max(grey.shape[2], size[1]))
    if enlarged == tuple(grey.shape[1:]):
        return grey
    return functional.interpolate(grey[None], enlarged, mode="bilinear", align_corners=False)[0]
