"""Turn a PIL image into a model's input."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fgg.data.grey_channels import MOST_PIXELS, dark_lines, extremes, tensor_of
from fgg.data.images import decode, standard
from fgg.errors import FggError

__all__ = ["Preprocess", "decode", "statistics"]

SHORTER = "shorter"
CHANNELS = {"rgb": 3, "grey": 1, "extremes": 3, "dark_lines": 3}
GREY_FIRST = ("extremes", "dark_lines")  # the first channel is the grey image, the others are computed from it
MOST_SIDE = 2**16  # pixels
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
        size: tuple[int, ...]
        if isinstance(self.size, Mapping):
            size = self._shorter()
        else:
            size = tuple(map(_side, self.size if isinstance(self.size, list | tuple) else (self.size, self.size)))
            if len(size) == 2 and 1 <= min(size) <= max(size) <= MOST_SIDE:
                object.__setattr__(self, "size", size)
        if len(size) != 2 or not 1 <= min(size) <= max(size) <= MOST_SIDE:
            raise FggError(f"preprocess.resize: {self.size!r} is not a height and a width from 1 to {MOST_SIDE} pixels")
        if self.crop is not None:
            if (side := _side(self.crop)) < 1:
                raise FggError(f"preprocess.crop: {self.crop!r} must be a number of pixels, at least 1")
            if side > min(size):
                raise FggError(f"preprocess.crop: {side} is larger than the resized image {size}; lower it")
            object.__setattr__(self, "crop", side)
        for key, allowed in (("channels", CHANNELS), ("interpolation", INTERPOLATIONS)):
            if not isinstance(getattr(self, key), str) or getattr(self, key) not in allowed:
                raise FggError(
                    f"preprocess.{key}: {getattr(self, key)!r} is unknown; choose from: {', '.join(allowed)}"
                )
        for key in ("mean", "std"):
            values = getattr(self, key)
            if values is None:
                continue
            try:
                numbers = tuple(float(value) for value in values)
            except (TypeError, ValueError):
                numbers = (math.nan,)
            if not all(map(math.isfinite, numbers)):
                raise FggError(f"preprocess.{key}: {values!r} must be a list with a number for each channel")
            object.__setattr__(self, key, numbers)
            if len(numbers) != self.n_channels:
                raise FggError(
                    f"preprocess.{key}: {len(numbers)} values, but channels {self.channels!r} have {self.n_channels}; "
                    "give one value per channel"
                )
        if self.std is not None and min(self.std) <= 0:
            raise FggError(f"preprocess.std: {self.std} must be above 0")

    def _shorter(self) -> tuple[int, int]:
        """The minimum size of a resized image if the aspect ratio is kept."""
        if set(self.size) != {SHORTER} or not _side(self.size[SHORTER]):
            raise FggError(f"preprocess.resize: {self.size} is not {{{SHORTER}: PIXELS}}")
        object.__setattr__(self, "size", {SHORTER: _side(self.size[SHORTER])})
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
        """The input before it is standardised: (C, H, W) float32 in 0…1. Raises FggError for what is no PIL image."""
        if not isinstance(image, Image.Image):
            kind = type(image).__name__
            raise FggError(f"an image must be a PIL image, not a {kind}; see PIL.Image.open and PIL.Image.fromarray")
        image = standard(image)
        if self.channels in GREY_FIRST:
            make = extremes if self.channels == "extremes" else dark_lines
            pixels = make(image if image.mode == "F" else image.convert("L"), self.size)
        else:
            pixels = self._resized(image)
        return self._cropped(pixels)

    def area(self, mask: Image.Image) -> Tensor:
        """The share of each pixel of the input that lies inside a mask: float32 (H, W), resized and cropped like `pixels`.

        Args:
            mask: of mode L; inside where it is not 0.
        """
        mask = self._central(mask)
        inside, (height, width) = np.asarray(mask) > 0, self.resized(*mask.size)
        if inside.size > MOST_PIXELS:
            resized = _area_of_large(inside, height, width)
        else:
            resized = (
                _overlaps(height, inside.shape[0]) @ inside.astype(np.float64) @ _overlaps(width, inside.shape[1]).T
            )
        return self._cropped(torch.from_numpy(resized)[None])[0].float().clamp(0, 1)

    def _central(self, image: Image.Image) -> Image.Image:
        """The image, or the middle of a strip that would be resized to more than `MOST_PIXELS`, of which the crop sees less."""
        height, width = self.resized(*image.size)
        if height * width <= MOST_PIXELS or not isinstance(self.size, Mapping):
            return image
        (across, down), short = image.size, min(image.size)
        left, top = max(0, across - 3 * short) // 2, max(0, down - 3 * short) // 2
        return image.crop((left, top, across - left, down - top))

    def _cropped(self, pixels: Tensor) -> Tensor:
        height, width = self.output_size
        top, left = round((pixels.shape[1] - height) / 2), round((pixels.shape[2] - width) / 2)
        return pixels[:, top : top + height, left : left + width].contiguous()

    def __call__(self, image: Image.Image) -> Tensor:
        """The model's input: (C, H, W) float32, standardised. Raises FggError before mean and std are known."""
        return self.standardised(self.pixels(image))

    def standardised(self, pixels: Tensor) -> Tensor:
        """Pixels (…, C, H, W) in 0…1, standardised by their channel's mean and std. Raises like `__call__`."""
        if self.mean is None or self.std is None:
            raise FggError("preprocess: mean and std are not known; give them, or measure them with `statistics`")
        return (pixels - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]

    def _resized(self, image: Image.Image) -> Tensor:
        if image.mode != "F":
            image = image.convert("RGB" if self.channels == "rgb" else "L")
        image = self._central(image)
        image = image.resize(self.resized(*image.size)[::-1], INTERPOLATIONS[self.interpolation])
        pixels = tensor_of(image).clamp(0, 1)  # floats overshoot in bicubic and lanczos; bytes are clipped by PIL
        return pixels.expand(self.n_channels, -1, -1)


def _side(value: Any) -> int:
    """A side in pixels, of any type of whole number; 0 for anything else."""
    value = value.item() if isinstance(value, Tensor | np.ndarray) and value.ndim == 0 else value
    whole = isinstance(value, Real) and not isinstance(value, bool) and float(value).is_integer()
    return int(value) if whole else 0


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


def _area_of_large(inside: np.ndarray, height: int, width: int) -> np.ndarray:
    """What `Preprocess.area` computes, float64 (height, width), a few rows of a large mask (h, w) at a time."""
    down, across = (_sparse_overlaps(new, old) for new, old in zip((height, width), inside.shape, strict=True))
    out, rows = np.zeros((height, width)), max(1, MOST_PIXELS // inside.shape[1])
    for top in range(0, len(inside), rows):
        part = slice(top, top + rows)
        out += down[:, part] @ (across @ inside[part].T.astype(np.float64)).T
    return out


def _sparse_overlaps(new: int, old: int) -> Any:
    """`_overlaps` as a sparse matrix, which has about new + old entries."""
    from scipy import sparse

    # In units of 1 / (old * new) of the line, all edges are whole numbers.
    edges = np.unique(np.concatenate([np.arange(old + 1) * new, np.arange(new + 1) * old]))
    starts = edges[:-1]
    shares = np.diff(edges) / old
    return sparse.csc_array((shares, (starts // old, starts // new)), shape=(new, old))
