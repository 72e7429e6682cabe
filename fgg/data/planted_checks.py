"""Whether the settings of planted images fit together. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

KEYS = (
    *("images", "backgrounds", "cue", "size", "placement", "share", "size_of_image", "cell", "contrast"),
    "copies",
)
GRID, FREE, BESIDE = "grid", "free", "beside"
FORMS: dict[str, tuple[str, str]] = {
    "stripes": ("horizontal", "vertical"),
    "tone": ("darker", "lighter"),
    "colour": ("blue", "red"),
}  # cue -> its form in each class


def planted_faults(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) for a block ``planted`` whose keys are all there and of the right type."""
    size, side, cell = settings["size"], settings["size_of_image"], settings["cell"]
    if 2 * size > side:
        yield "size", f"a cue and a decoy of {size} pixels do not fit beside each other into {side} pixels; lower it"
    if cell > side:
        yield "cell", f"a patch of {cell} pixels is larger than the image ({side}); give the model's patch size"
    if round(255 * settings["contrast"]) < 1:
        yield "contrast", f"{settings['contrast']} is less than one level of 255, so nothing would be seen; raise it"
    if settings["share"] <= 0:
        yield "share", "without a cue there is nothing to find; give a share above 0"
    if settings["placement"] == GRID:
        for key in ("size", "size_of_image"):
            if settings[key] % cell:
                yield key, f"{settings[key]} is no multiple of the patches' {cell} pixels, which placement: grid needs"
