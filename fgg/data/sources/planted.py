"""Images with a planted cue: where the model must look is known, because nothing else tells the class.

Every image is a background of an embedded set with two marked squares. The form of one, the cue, is the class. The other,
the decoy, is as visible and says nothing: a checkerboard of the cue's two forms. Some images have a decoy alone, and a
class that nothing in them tells.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from fgg.data.images import decode_unnamed, eight_bit
from fgg.data.masks import png
from fgg.data.planted_checks import BESIDE, FORMS, GRID, KEYS, planted_faults
from fgg.data.sources.digits import digits
from fgg.data.sources.elpv import elpv
from fgg.data.sources.records import SPLITS, Record, Source
from fgg.data.sources.registry import source
from fgg.data.stratified import apportion, keyed_order
from fgg.errors import FggError
from fgg.randomness import generator

BACKGROUNDS = {"elpv": elpv, "digits": digits}
COLUMNS = ("mask", "decoy", "without_cue", "without_decoy")
SIDES = ((0, 1), (0, -1), (1, 0), (-1, 0))  # where a touching decoy lies, seen from the cue
TINTS = {"stripes": (1, 1, 1), "tone": (1, 1, 1), "colour": (1, 0, -1)}  # sign per channel of what is added


@dataclass(frozen=True)
class Design:
    """The settings ``planted`` that an image depends on; see the configuration's schema."""

    cue: str
    size: int
    placement: str
    share: float
    size_of_image: int
    cell: int
    contrast: float

    @property
    def step(self) -> int:
        """By how many levels of 255 a square is lighter or darker than the background."""
        return round(255 * self.contrast)


@dataclass(frozen=True)
class Drawn:
    """What is drawn for an image: its class, whether it has a cue, and the (top, left) of cue and decoy in pixels."""

    label: int
    present: bool
    cue: tuple[int, int]
    decoy: tuple[int, int]


@dataclass(frozen=True)
class Planted(Record):
    """A background with a decoy and, unless ``drawn`` says otherwise, a cue. Its files are PNGs made on each access."""

    background: Record | None = None
    design: Design | None = None
    drawn: Drawn | None = None

    @property
    def data(self) -> bytes:
        """A PNG file of the image. Raises OSError and FggError like its background."""
        return png(self._image(cue=True, decoy=True))

    @property
    def extras(self) -> dict[str, bytes | None]:
        """PNG files: the masks of cue and decoy, and the image without either; None where there is no cue."""
        assert self.design and self.drawn
        present = self.drawn.present
        return {
            "mask": png(_box(self.design, self.drawn.cue)) if present else None,
            "decoy": png(_box(self.design, self.drawn.decoy)),
            "without_cue": png(self._image(cue=False, decoy=True)) if present else None,
            "without_decoy": png(self._image(cue=True, decoy=False)),
        }

    def _image(self, cue: bool, decoy: bool) -> Image.Image:
        assert self.background and self.design and self.drawn
        pixels = _background(self.background, self.design).copy()
        if cue and self.drawn.present:
            _add(pixels, self.drawn.cue, form(self.design, self.drawn.label), self.design)
        if decoy:
            _add(pixels, self.drawn.decoy, form(self.design, None), self.design)
        return Image.fromarray(pixels.astype(np.uint8))


@source(name="planted")
def planted(settings: Mapping[str, Any]) -> Source:
    """Images with a planted cue, as ``settings["planted"]`` describes; split by ``fractions``, background by background.

    Raises:
        FggError: a key is missing or unknown, the settings do not fit together, or the backgrounds cannot be used.
    """
    own = settings.get("planted") or {}
    if set(own) != set(KEYS):
        raise FggError(f"planted: the keys must be {', '.join(KEYS)}; found {', '.join(own) or 'none'}")
    if faults := [f"planted.{key}: {why}" for key, why in planted_faults(own)]:
        raise FggError("; ".join(faults))
    design = Design(**{name: own[name] for name in Design.__dataclass_fields__})
    base, seed = BACKGROUNDS[own["images"]](settings), settings["seed"]
    backgrounds = {record.image_id: record for record in base.records}
    order = keyed_order(backgrounds, seed, "planted split")[: own["backgrounds"]]
    sizes = apportion(len(order), [settings["fractions"][split] for split in SPLITS])
    splits = [split for split, size in zip(SPLITS, sizes, strict=True) for _ in range(size)]
    records: list[Record] = []
    for image_id, split in zip(order, splits, strict=True):
        for copy in range(1, (own["copies"] if split == "train" else 1) + 1):
            name = image_id if copy == 1 else f"{image_id}-copy{copy}"
            drawn, old = draw(design, seed, name), backgrounds[image_id]
            label = FORMS[design.cue][drawn.label]
            records.append(
                Planted(name, f"{name}.png", label, split, old.file, background=old, design=design, drawn=drawn)
            )
    told = json.dumps([base.checksum, own, seed], sort_keys=True).encode()
    return Source(
        sorted(records, key=lambda record: record.image_id),
        version=base.version,
        citation=f"cues planted by fgg into images of: {base.citation}",
        licence=base.licence,
        checksum=hashlib.sha256(told).hexdigest(),
        classes=list(FORMS[design.cue]),
        columns=COLUMNS,
    )


def draw(design: Design, seed: int, image_id: str) -> Drawn:
    """What is drawn for an image; it depends on the design, the seed and the image_id alone.

    Every pair of places of cue and decoy that the placement allows and that do not overlap is equally likely, so that a map
    that knows nothing of the class points at both alike.
    """
    random = generator(seed, "planted", image_id)
    label, present = int(random.integers(2)), bool(random.random() < design.share)
    step = design.cell if design.placement == GRID else 1
    last = design.size_of_image - design.size
    while True:
        cue = random.integers(last // step + 1, size=2) * step
        if design.placement == BESIDE:
            decoy = cue + design.size * np.array(SIDES[int(random.integers(len(SIDES)))])
        else:
            decoy = random.integers(last // step + 1, size=2) * step
        fits = decoy.min() >= 0 and decoy.max() <= last
        if fits and np.abs(cue - decoy).max() >= design.size:
            return Drawn(label, present, (int(cue[0]), int(cue[1])), (int(decoy[0]), int(decoy[1])))


def form(design: Design, label: int | None) -> np.ndarray:
    """The form of a square: +1 and -1 in (size, size), for a class, or for the decoy if ``label`` is None.

    Lines are a quarter of a patch wide, so that a patch holds two of each kind wherever the square lies.
    """
    width = max(1, design.cell // 4)
    lines = 1 - 2 * (np.arange(design.size) // width % 2)
    if label is None:
        return np.outer(lines, lines)
    if design.cue != "stripes":
        return np.full((design.size, design.size), 2 * label - 1)
    rows = np.repeat(lines[:, None], design.size, axis=1)
    return rows.T if FORMS[design.cue][label] == "vertical" else rows


def _add(pixels: np.ndarray, place: tuple[int, int], signs: np.ndarray, design: Design) -> None:
    """Add the step, with its signs, to the square of an image (side, side) or (side, side, 3) of integers, in place."""
    top, left = place
    square = pixels[top : top + design.size, left : left + design.size]
    square += design.step * (signs if pixels.ndim == 2 else signs[..., None] * np.array(TINTS[design.cue]))


def _box(design: Design, place: tuple[int, int]) -> Image.Image:
    """A square as a mask of the whole image."""
    mask = np.zeros((design.size_of_image,) * 2, dtype=np.uint8)
    mask[place[0] : place[0] + design.size, place[1] : place[1] + design.size] = 255
    return Image.fromarray(mask)


@functools.lru_cache(maxsize=4)
def _background(record: Record, design: Design) -> np.ndarray:
    """A background, int (side, side), or (side, side, 3) for a coloured cue.

    Its levels are drawn together so far that adding or subtracting the step clips nothing.
    """
    image = eight_bit(decode_unnamed(record.data)).convert("RGB" if design.cue == "colour" else "L")
    image = image.resize((design.size_of_image,) * 2, Image.Resampling.BILINEAR)
    pixels = np.asarray(image).astype(np.int64)
    return design.step + np.rint(pixels * (255 - 2 * design.step) / 255).astype(np.int64)
