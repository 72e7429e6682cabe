"""A model's preprocessing in words, with where each part comes from. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COMPUTED = ("extremes", "dark_lines")  # channels that are pooled from the image, without an interpolation


def preprocess_words(settings: Mapping[str, Any], origins: Mapping[str, str] | None = None) -> str:
    """One line about a preprocessing: size, crop, channels, interpolation, mean and standard deviation.

    Args:
        settings: ``preprocess`` of a model.json.
        origins: ``preprocess_from`` of it, key -> where its value comes from; None or {} where no record says it.
    """
    told = dict(origins or {})
    own = [("size", _size(settings["size"]))]
    if settings.get("crop") is not None:
        own.append(("crop", f"the {settings['crop']} x {settings['crop']} in the middle"))
    own.append(("channels", f"channels {settings['channels']}"))
    if settings["channels"] not in COMPUTED:
        own.append(("interpolation", str(settings["interpolation"])))
    parts = [_with_origin(text, told.get(key)) for key, text in own]
    mean, std = (
        f"{title} {_numbers(settings.get(key))}" for key, title in (("mean", "mean"), ("std", "standard deviation"))
    )
    if told.get("mean") == told.get("std"):
        parts.append(_with_origin(f"{mean} and {std}", told.get("mean")))
    else:
        parts += [_with_origin(mean, told.get("mean")), _with_origin(std, told.get("std"))]
    return ", ".join(parts)


def _size(size: Any) -> str:
    if isinstance(size, Mapping):
        return f"shorter side resized to {size['shorter']}"
    height, width = (size, size) if isinstance(size, int) else size
    return f"resized to {height} x {width}"


def _numbers(values: Any) -> str:
    return "unknown" if values is None else "/".join(f"{value:.4g}" for value in values)


def _with_origin(text: str, origin: str | None) -> str:
    return f"{text} ({origin})" if origin else text
