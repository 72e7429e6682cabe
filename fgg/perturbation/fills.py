"""Fills: what replaces a patch when a metric removes it.

No fill is neutral: each stands for an absent patch in a different way, so metrics are computed with several fills.
Constants are values before standardisation (``zero``, ``black``, ``white``, ``training_mean``) or after it (``mean``,
``zero_normalised``, a number). ``blur`` and ``noise`` replace the patch by that of another image, ``road`` imputes it
from its surroundings (Rong et al. 2022), and ``removal`` leaves out the patch's token, which Transformers allow (Naseer
et al. 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from fgg.catalogue import FILLS
from fgg.errors import FggError
from fgg.randomness import generator

ROAD_NOISE = 0.01  # standard deviation of the noise that Rong et al. add to imputed pixels
DIRECT, DIAGONAL = 1 / 6, 1 / 12  # the weights that they give to the neighbours of a pixel


@dataclass(frozen=True)
class Fill:
    """What replaces the patches of a batch of images.

    Attributes:
        name: one of `fgg.catalogue.FILLS`, or a number as text.
        kind: ``value``, ``image``, ``imputation`` or ``removal``.
        values: (B,) for kind ``value``, (B, C, H, W) for ``image``, in the model's input units; else None.
        noise: (B, C, H, W) for kind ``imputation``.
    """

    name: str
    kind: str
    values: Tensor | None = None
    noise: Tensor | None = None


def fill_name(fill: str | float) -> str:
    """A fill's name in the tables. Raises FggError for an unknown name, or a number that is not finite."""
    if isinstance(fill, str) and fill in FILLS:
        return fill
    try:
        value = float(fill)
    except (TypeError, ValueError):
        value = float("nan")
    if isinstance(fill, bool) or not np.isfinite(value):
        raise FggError(f"fill {fill!r} is unknown; choose from {', '.join(FILLS)}, or give a number")
    return f"{value:g}"


def make_fill(
    fill: str | float,
    images: Tensor,
    patch: tuple[int, int],
    channels: Mapping[str, Sequence[float]] | None = None,
    image_ids: Sequence[str] = (),
    seed: int = 0,
) -> Fill:
    """A fill for a batch of images.

    Args:
        fill: a name, or a number in the units of the images.
        images: the model's input, float (B, C, H, W).
        patch: height and width of a patch in pixels; determines the width of the blur.
        channels: the values per channel of ``zero``, ``black``, ``white`` and ``training_mean``, in these units
            (`channel_values`).
        image_ids: names that, together with ``seed``, determine the random draws.

    Raises:
        FggError: an unknown fill, or one whose values per channel are not known.
    """
    name = fill_name(fill)
    if name == "mean":
        return Fill(name, "value", images.float().mean((1, 2, 3)))
    if name == "removal":
        return Fill(name, "removal")
    if name in ("noise", "road") and len(image_ids) != len(images):
        raise FggError(f"fill {name!r}: {len(image_ids)} image_ids for {len(images)} images")
    if name == "road":
        return Fill(name, "imputation", noise=ROAD_NOISE * _drawn("road", images, image_ids, seed))
    if name == "noise":
        mean, sd = images.mean((2, 3), keepdim=True), images.std((2, 3), keepdim=True, correction=0)
        return Fill(name, "image", mean + sd * _drawn("noise", images, image_ids, seed))
    if name == "blur":
        return Fill(name, "image", blurred(images, max(patch)))
    if name == "zero_normalised" or name not in FILLS:
        value = 0.0 if name == "zero_normalised" else float(fill)
        return Fill(name, "value", images.new_full((len(images),), value, dtype=torch.float32))
    if channels is None or name not in channels:
        raise FggError(
            f"fill {name!r} needs to know how the images were standardised; give preprocess=…, or choose one of "
            "mean, zero_normalised, blur, noise, road, removal, or a number"
        )
    values = torch.as_tensor(channels[name], dtype=images.dtype, device=images.device)
    return Fill(name, "image", values[None, :, None, None].expand_as(images).contiguous())


def channel_values(preprocess: Any, training_mean: Sequence[float] | None = None) -> dict[str, tuple[float, ...]]:
    """The values per channel of the fills that are defined before standardisation, in the units of the model's input.

    Args:
        preprocess: a `fgg.data.preprocess.Preprocess`.
        training_mean: mean of the training images per channel, in these units; None leaves it out.
    """
    zero = preprocess.standardised(torch.zeros(preprocess.n_channels, 1, 1)).flatten().tolist()
    found = {"zero": tuple(zero)}
    for name, shade in (("black", 0), ("white", 255)):
        whole = preprocess(Image.new("RGB", preprocess.output_size[::-1], (shade,) * 3))
        found[name] = tuple(whole.mean((1, 2)).tolist())
    if training_mean is not None:
        found["training_mean"] = tuple(training_mean)
    return found


def blurred(images: Tensor, side: int) -> Tensor:
    """Blur images (B, C, H, W) with a Gaussian whose standard deviation is the side of a patch."""
    reach = min(2 * side, images.shape[2] - 1, images.shape[3] - 1)  # the padding by reflection cannot be wider
    return transforms.gaussian_blur(images, [2 * reach + 1] * 2, [float(side)] * 2)


def _drawn(what: str, images: Tensor, image_ids: Sequence[str], seed: int) -> Tensor:
    """Standard normal numbers in the shape of the images, keyed by (seed, image_id)."""
    shape = tuple(images.shape[1:])
    rows = [generator(seed, "fill", what, name).standard_normal(shape, dtype=np.float32) for name in image_ids]
    return torch.from_numpy(np.stack(rows)).to(images.device, images.dtype)


def impute(images: Tensor, masks: Tensor, noise: Tensor | None = None) -> Tensor:
    """Noisy linear imputation (ROAD, Rong et al. 2022, section 4).

    Each masked pixel becomes the weighted mean of those of its eight neighbours that lie inside the image, with weight
    1/6 for the four direct ones and 1/12 for the four diagonal ones. Together these equations are a linear system. Then
    noise is added. Where everything is masked, all pixels become the image's mean per channel.

    Args:
        images: float (B, C, H, W).
        masks: bool (B, V, H, W), True where a pixel is masked.
        noise: (B, C, H, W), added to the imputed pixels.

    Returns:
        (B, V, C, H, W).
    """
    found = images[:, None].repeat(1, masks.shape[1], 1, 1, 1)
    for number, (image, own) in enumerate(zip(images.cpu().double().numpy(), masks.cpu().numpy(), strict=True)):
        for version, mask in enumerate(own):
            if mask.any():
                values = torch.from_numpy(_imputed(image, mask)).to(found.device, found.dtype)
                if noise is not None:
                    values = values + noise[number][:, masks[number, version]]
                found[number, version][:, masks[number, version]] = values
    return found


def _imputed(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The imputed values of the n masked pixels of an image (C, H, W): (C, n)."""
    from scipy.sparse import csc_array
    from scipy.sparse.linalg import spsolve

    n = int(mask.sum())
    if n == mask.size:
        return np.repeat(image.mean((1, 2))[:, None], n, axis=1)
    number = np.full(mask.shape, -1)
    number[mask] = np.arange(n)
    rows, columns = np.nonzero(mask)
    diagonal, right = np.zeros(n), np.zeros((n, len(image)))
    entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            if not down and not across:
                continue
            weight = DIAGONAL if down and across else DIRECT
            y, x = rows + down, columns + across
            inside = (y >= 0) & (y < mask.shape[0]) & (x >= 0) & (x < mask.shape[1])
            diagonal[inside] += weight
            own, y, x = np.flatnonzero(inside), y[inside], x[inside]
            unknown = mask[y, x]
            entries.append((own[unknown], number[y[unknown], x[unknown]], np.full(unknown.sum(), -weight)))
            right[own[~unknown]] += weight * image[:, y[~unknown], x[~unknown]].T
    entries.append((np.arange(n), np.arange(n), diagonal))
    first, second, values = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    system = csc_array((values, (first, second)), shape=(n, n))
    solved = spsolve(system, right)
    return solved.reshape(n, -1).T
