"""Masks: which pixels of an image belong to what a map should point at. Does not import torch.

A mask is an image file. Its pixels that are not black lie inside; transparent ones count as black. In a JPEG, whose
compression leaves noise around edges, pixels lie inside from half of the largest value.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from fgg.data.images import decode_unnamed
from fgg.data.sources.records import SUFFIXES, Record, Source
from fgg.errors import FggError

KINDS = ("mask", "decoy")  # the columns that hold masks
JPEG = b"\xff\xd8\xff"  # how the bytes of a JPEG begin
PROPORTION = 0.02  # by how much the proportions of mask and image may differ
NOISE = 16  # what compression leaves of a black JPEG


def decode_mask(data: bytes) -> Image.Image:
    """A mask of mode L, upright: 255 inside, 0 outside. Raises FggError for bytes that are no image."""
    values = np.asarray(decode_unnamed(data))
    brightest = values.max(-1) if values.ndim == 3 else values
    inside = brightest > (
        brightest.max(initial=0) / 2 if data.startswith(JPEG) and brightest.max(initial=0) > NOISE else 0
    )
    return Image.fromarray(inside.astype(np.uint8) * 255)


def png(image: Image.Image) -> bytes:
    """The image as a PNG file; equal images give equal bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def with_folder(source: Source, folder: Path) -> Source:
    """The source, its images with the masks of a folder.

    A mask has the name of its image, with any suffix: the image_id, or the image's path in the source.

    Raises:
        FggError: there is no such folder, two masks have one name, a mask fits two images, or no mask fits any.
    """
    if not folder.is_dir():
        raise FggError(f"masks: the folder {folder} does not exist; give the folder with the masks")
    found: dict[str, Path] = {}
    others: list[str] = []
    for file in sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")):
        name = file.relative_to(folder).as_posix()
        stem = PurePosixPath(name).with_suffix("").as_posix()
        if file.suffix.lower() not in SUFFIXES:
            others.append(name)
        elif stem in found:
            raise FggError(f"masks: {found[stem]} and {file} are masks of one image; keep one of them")
        else:
            found[stem] = file
    return with_masks(source, found, str(folder), others)


def with_masks(source: Source, found: Mapping[str, Path], place: str, others: Iterable[str] = ()) -> Source:
    """The source, its images with the masks of the same name.

    Args:
        found: name of a mask, an image_id or an image's path without its suffix -> its file.
        place: where the masks lie, for messages.
        others: files there that are no masks; with the masks that fit no image they are the source's ``unused_masks``.

    Raises:
        FggError: a mask fits two images, or no mask fits any.
    """
    owner: dict[str, str] = {}
    records = []
    for record in source.records:
        names = (record.image_id, PurePosixPath(record.path).with_suffix("").as_posix())
        name = next((name for name in names if name in found), None)
        if name is not None and name in owner:
            raise FggError(
                f"masks: {found[name]} fits two images, {owner[name]} and {record.image_id}; name it like one image_id"
            )
        if name is not None:
            owner[name] = record.image_id
        records.append(record if name is None else dataclasses.replace(record, mask_file=found[name]))
    if not owner:
        some = ", ".join(f"{record.image_id}.png" for record in source.records[:3])
        seen = ", ".join(list(found)[:3]) or "no image file"
        raise FggError(
            f"masks: no file in {place} has the name of an image; names are like {some}, but the folder has {seen}"
        )
    unused = sorted([*others, *(str(file) for name, file in found.items() if name not in owner)])
    return dataclasses.replace(source, records=records, columns=("mask",), unused_masks=unused)


def count_masks(records: Sequence[Record], unused: Sequence[str]) -> dict[str, Any]:
    """The facts about the masks of readable images, for dataset.json; decodes each mask.

    Returns:
        numbers of images with a mask, without one, and with an empty one; files that are the mask of no image; and the
        SHA-256 over (image_id, SHA-256 of the mask's bytes).

    Raises:
        FggError: masks cannot be read.
    """
    digest, n_masks, n_empty = hashlib.sha256(), 0, 0
    faults = []
    for record in records:
        try:
            data = record.extras.get("mask")
            if data is None:
                continue
            n_masks += 1
            n_empty += decode_mask(data).getbbox() is None
            digest.update(json.dumps([record.image_id, hashlib.sha256(data).hexdigest()]).encode() + b"\n")
        except OSError as error:
            faults.append(f"{record.mask_file}: cannot be read: {error.strerror}")
        except FggError as error:
            faults.append(f"{record.mask_file}: {error}")
    if faults:
        more = f"\n  and {len(faults) - 5} more" if len(faults) > 5 else ""
        lines = "\n".join(f"  {fault}" for fault in faults[:5])
        raise FggError(f"{len(faults)} of {n_masks} masks are unreadable; replace or remove them:\n{lines}{more}")
    return {
        "n_masks": n_masks,
        "n_without": len(records) - n_masks,
        "n_empty": n_empty,
        "n_unused": len(unused),
        "unused": list(unused),
        "checksum": digest.hexdigest(),
    }


def stored(record: Record, data: bytes, columns: Sequence[str]) -> dict[str, bytes | None]:
    """What the file of a split holds in the extra columns of an image: PNG bytes, or None.

    A mask of another size than its image is scaled by nearest neighbour. Raises FggError for other proportions.

    Args:
        data: the bytes of the image.
    """
    extras = record.extras if columns else {}
    row: dict[str, bytes | None] = {name: extras.get(name) for name in columns}
    for name in KINDS:
        own = row.get(name)
        if own is not None:
            mask, size = decode_mask(own), decode_unnamed(data).size
            if abs(mask.width * size[1] - mask.height * size[0]) > PROPORTION * mask.width * size[1]:
                file = record.mask_file or f"the {name} of {record.image_id}"
                raise FggError(
                    f"masks: {file} is {mask.width} x {mask.height}, its image {size[0]} x {size[1]}; give a mask of the "
                    "image's proportions, drawn on the image as it is shown (turned as its EXIF data say)"
                )
            row[name] = png(mask if mask.size == size else mask.resize(size, Image.Resampling.NEAREST))
    return row
