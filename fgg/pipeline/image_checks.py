"""Faults in how a dataset's images, masks and planted cues fit together. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fgg.attribution.registry import MASKS, find_method
from fgg.catalogue import EXTERNAL
from fgg.data.planted_checks import GRID, planted_faults

PLANTED = "planted"  # the source, and the key of its settings
COLOURED = "rgb"  # the only ones that keep colours


def has_masks(dataset: Mapping[str, Any]) -> bool:
    """Whether the images of a dataset have masks."""
    return dataset["source"] == PLANTED or dataset.get("masks") is not None


def lacking_masks(method: str, dataset: Mapping[str, Any]) -> str:
    """The masks that a method reads and a dataset has not, in words; empty if there are none."""
    if method == EXTERNAL or dataset["source"] == PLANTED:
        return ""
    there = ("masks",) if has_masks(dataset) else ()
    read = [name for name in MASKS if name in find_method(method).declaration.parameters]
    return next((name for name in read if name not in there), "")


def image_faults(own: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) for a dataset's settings, complete with defaults."""
    if own["source"] != PLANTED:
        if own["planted"] is not None:
            yield PLANTED, f"only the source {PLANTED!r} plants cues; set it, or leave the block out"
        return
    for key, why in (
        ("path", "planted images are made of an embedded set"),
        ("masks", "planted images have masks of their own"),
    ):
        if own[key] is not None:
            yield key, f"{why}; leave it out"
    planted, preprocess, kwargs = own[PLANTED], own["preprocess"], own["model"]["kwargs"]
    yield from ((f"{PLANTED}.{key}", why) for key, why in planted_faults(planted))
    side, resize = planted["size_of_image"], preprocess["resize"]
    if preprocess["crop"] is not None or resize not in (None, side, [side, side]):
        yield "preprocess.resize", f"planted images have their final size of {side}; set resize: {side}, and no crop"
    if isinstance(kwargs.get("img_size"), int) and kwargs["img_size"] != side:
        yield f"{PLANTED}.size_of_image", f"{side} is not the model's img_size {kwargs['img_size']}; make them equal"
    patch = kwargs.get("patch_size")
    if planted["placement"] == GRID and isinstance(patch, int) and patch != planted["cell"]:
        yield f"{PLANTED}.cell", f"{planted['cell']} is not the model's patch_size {patch}; placement: grid needs it"
    channels = preprocess["channels"] or ("grey" if kwargs.get("in_chans") == 1 else COLOURED)
    if planted["cue"] == "colour" and channels != COLOURED:
        yield "preprocess.channels", f"{channels!r} hides the cue's colour; set channels: {COLOURED}"
