"""A model's preprocessing: the keys that the user gives, and the rest derived from the weights, the model and the images.

The order: a key that is given wins. Then comes what is written beside the weights (`fgg.models.image_records`), then the
model's input, then the training images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from fgg.data.preprocess import CHANNELS, GREY_FIRST, SHORTER, Preprocess
from fgg.errors import FggError
from fgg.models.image_records import WHOLE, Said, note

GIVEN, MODEL, USUAL = "given", "the model's input", "the usual one"
STATISTICS = ("mean", "std")
INTERPOLATION = "bilinear"


@dataclass(frozen=True)
class Derived:
    """A preprocessing, whose mean and std may still be unknown, and for each of its keys where the value comes from."""

    preprocess: Preprocess
    origins: dict[str, str]

    def measured(self, statistics: Callable[[], tuple[Sequence[float], Sequence[float]]], origin: str) -> Derived:
        """The same with mean and std, those that are unknown measured by ``statistics``, which ``origin`` describes."""
        unknown = [key for key in STATISTICS if getattr(self.preprocess, key) is None]
        if not unknown:
            return self
        values: dict[str, Any] = dict(zip(STATISTICS, statistics(), strict=True))
        found = {key: tuple(values[key]) for key in unknown}
        return self.told(replace(self.preprocess, **found), **dict.fromkeys(unknown, origin))

    def told(self, preprocess: Preprocess | None = None, **origins: str) -> Derived:
        """The same with other origins, in the order of the settings, and perhaps another preprocessing."""
        own, found = preprocess or self.preprocess, self.origins | origins
        return Derived(own, {key: found[key] for key in own.to_dict() if key in found})


def derive(given: Mapping[str, Any], shape: VisionTransformer, said: Said) -> Derived:
    """A preprocessing for a model: given keys win, the rest is derived.

    Args:
        given: the settings ``preprocess``: resize, crop, channels, interpolation, mean, std; None or absent is derived.
        shape: the model, or one of its shape.
        said: what is written about the images of its weights.

    Returns:
        Mean and std are None where neither the user nor the weights say them, or where the weights' are of other channels.

    Raises:
        FggError: a setting is wrong, or the result does not fit the model's input.
    """
    own = {key: value for key, value in given.items() if value is not None}
    origins = dict.fromkeys(own, GIVEN)
    takes = input_channels(shape)
    if "channels" not in own:
        own["channels"], origins["channels"] = _channels(takes), f"the model takes {takes}"
    channels = own["channels"]
    _place(own, origins, tuple(shape.patch_embed.img_size), said)
    for key in ("interpolation", *STATISTICS):
        value = getattr(said, key)
        if key in own or value is None or (key in STATISTICS and channels in GREY_FIRST):
            continue
        own[key] = fitted(value, CHANNELS[channels], key) if key in STATISTICS and channels in CHANNELS else value
        origins[key] = said.origins[key]
    if "interpolation" not in own:
        own["interpolation"], origins["interpolation"] = INTERPOLATION, USUAL
    size, origins["size"] = own.pop("resize"), origins.pop("resize")
    preprocess = Preprocess(size=size, **own)
    _check_fit(preprocess, shape, takes)
    return Derived(preprocess, origins).told()


def _place(own: dict[str, Any], origins: dict[str, str], taken: tuple[int, int], said: Said) -> None:
    """Fill in ``resize`` and ``crop`` for a model that takes images of (H, W)."""
    square = taken[0] == taken[1]
    if "resize" in own:
        if isinstance(own["resize"], Mapping) and "crop" not in own and square:
            own["crop"], origins["crop"] = taken[0], MODEL
        return
    resize, crop, origin = said.resize, said.crop, said.origins.get("resize", "")
    if resize is None or own.get("crop", crop) != crop:
        own["resize"], origins["resize"] = list(taken), MODEL
        return
    if not square or (own["channels"] in GREY_FIRST and isinstance(resize, Mapping)):
        why = f"channels {own['channels']!r} need it" if square else "its input is not square"
        note(f"{WHOLE}, unlike {origin} says: {why}")
        own["resize"], origins["resize"] = list(taken), MODEL
        return
    output = (crop, crop) if crop else tuple(resize)
    if output != taken:
        note(f"{origin} gives images of {_shown(output)}, the model takes {_shown(taken)}: scaled in proportion")
        origin = f"{origin}, scaled to the model's input"
        sides = resize.values() if isinstance(resize, Mapping) else resize
        scaled = [round(side * taken[0] / output[0]) for side in sides]
        resize = {SHORTER: scaled[0]} if isinstance(resize, Mapping) else scaled if crop else list(taken)
        crop = taken[0] if crop else None
    own["resize"], origins["resize"] = resize, origin
    if crop is not None and "crop" not in own:
        own["crop"], origins["crop"] = crop, origin


def _shown(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def _check_fit(preprocess: Preprocess, shape: VisionTransformer, takes: int) -> None:
    if preprocess.n_channels != takes:
        raise FggError(
            f"preprocess.channels: {preprocess.channels!r} gives {preprocess.n_channels} channels, but the model "
            f"takes {takes}; set model.kwargs.in_chans, or choose other channels"
        )
    if tuple(preprocess.output_size) != tuple(shape.patch_embed.img_size):
        raise FggError(
            f"preprocess: the output size is {tuple(preprocess.output_size)}, but the model takes "
            f"{tuple(shape.patch_embed.img_size)}; set preprocess.resize and crop, or model.kwargs.img_size"
        )


def input_channels(model: VisionTransformer) -> int:
    """C of the images: that of the first convolution, which in a hybrid is the backbone's; 3 without one."""
    first = next((module for module in model.patch_embed.modules() if isinstance(module, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels


def _channels(takes: int) -> str:
    found = {1: "grey", 3: "rgb"}.get(takes)
    if found is None:
        raise FggError(
            f"preprocess.channels: the model takes {takes} channels, but images have 1 or 3; set model.kwargs.in_chans"
        )
    return found


def fitted(values: Sequence[float], channels: int, key: str) -> tuple[float, ...]:
    """Mean or std for so many channels: three of a colour image averaged for a grey one, one repeated for several.

    Raises:
        FggError: values and channels fit in neither way.
    """
    if len(values) == channels:
        return tuple(values)
    if channels == 1 and len(values) == 3:
        return (math.fsum(values) / 3,)
    if len(values) == 1:
        return tuple(values) * channels
    raise FggError(f"preprocess.{key}: the weights name {len(values)} for {channels} channels; give one per channel")
