"""Images in folders, one per class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fgg.data.sources.records import SPLITS, SUFFIXES, Record, Source
from fgg.data.sources.registry import source
from fgg.errors import FggError
from fgg.visible import has_controls, visible

LAYOUTS = f"DIR/<class>/* or DIR/{{train,val,test}}/<class>/* (files: {', '.join(SUFFIXES)})"


@source(name="image_folder")
def image_folder(settings: Mapping[str, Any]) -> Source:
    """The images of ``settings["path"]``: DIR/<class>/*, or DIR/{train,val,test}/<class>/*.

    ``image_id`` is the path below DIR without its suffix; the suffix is kept if two files would
    share an id. Hidden files are ignored; everything else that is not an image is listed as skipped.

    Raises:
        FggError: the folder does not exist, there are no classes or fewer than two, a class has no images, a split is
            missing, or the splits have different classes.
    """
    if not settings.get("path"):
        raise FggError(f"`path` is missing; set it to the folder with the images: {LAYOUTS}")
    root = Path(settings["path"]).expanduser()
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise FggError(f"the image folder {root} {what}; set `path` to a folder laid out as {LAYOUTS}")
    skipped: list[dict[str, str]] = []
    folders = _folders(root, root, skipped)
    _check_split_folders(root, folders)
    found: list[tuple[str | None, str, Path]] = []
    if SPLITS[0] in folders:
        for split in SPLITS:
            found += [(split, *image) for image in _class_images(folders[split], root, skipped)]
    else:
        found = [(None, *image) for image in _class_images(root, root, skipped, folders)]
    _check_classes(root, found)
    return Source(_records(root, found), skipped)


def _records(root: Path, found: list[tuple[str | None, str, Path]]) -> list[Record]:
    """Records with unique ids, sorted by path; found holds (split, class, file)."""
    paths = [file.relative_to(root).as_posix() for _, _, file in found]
    stems = [file.relative_to(root).with_suffix("").as_posix() for _, _, file in found]
    # A stem is an id only if no other stem and no full name equals it, so that a.png beside a.jpg,
    # or beside a.png.png, stay apart.
    taken = Counter(stems) + Counter(paths)
    ids = [stem if taken[stem] == 1 else path for stem, path in zip(stems, paths, strict=True)]
    records = [Record(i, p, label, split, f) for i, p, (split, label, f) in zip(ids, paths, found, strict=True)]
    return sorted(records, key=lambda record: record.path)


def _class_images(
    folder: Path, root: Path, skipped: list[dict[str, str]], classes: Mapping[str, Path] | None = None
) -> list[tuple[str, Path]]:
    """(class, file) of all images directly in the class folders of a folder."""
    found = []
    for label, place in (_folders(folder, root, skipped) if classes is None else classes).items():
        if has_controls(label):
            raise FggError(
                f"the class folder {visible(str(place))} has a name with control characters, or that is not valid UTF-8; rename it"
            )
        files = _images(place, root, skipped)
        if not files:
            raise FggError(
                f"the class folder {place} has no images (files: {', '.join(SUFFIXES)}); add some, or move it elsewhere"
            )
        found += [(label, file) for file in files]
    return found


def _folders(folder: Path, root: Path, skipped: list[dict[str, str]]) -> dict[str, Path]:
    """The visible folders in a folder, by name; files beside them are skipped."""
    entries = _entries(folder)
    skipped += [_skip(entry, root, "not in a class folder") for entry in entries if not entry.is_dir()]
    return {entry.name: entry for entry in entries if entry.is_dir()}


def _images(folder: Path, root: Path, skipped: list[dict[str, str]]) -> list[Path]:
    """The image files directly in a folder, by their suffix; everything else is skipped."""
    images = []
    for entry in _entries(folder):
        if entry.is_dir():
            skipped.append(_skip(entry, root, "a folder inside a class folder"))
        elif entry.suffix.lower() not in SUFFIXES:
            skipped.append(_skip(entry, root, f"not an image file: its name ends in none of {', '.join(SUFFIXES)}"))
        elif not _is_text(entry.relative_to(root)):
            skipped.append(_skip(entry, root, "its name is not valid UTF-8"))
        elif has_controls(entry.name):
            skipped.append(_skip(entry, root, "its name holds control characters, such as a line break"))
        elif entry.exists() and not entry.is_file():
            skipped.append(_skip(entry, root, "not a regular file"))
        else:  # a dangling link too: reading it fails, and it counts as unreadable
            images.append(entry)
    return images


def _entries(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _skip(entry: Path, root: Path, reason: str) -> dict[str, str]:
    return {"path": visible(os.fsencode(entry.relative_to(root)).decode(errors="replace")), "reason": reason}


def _is_text(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_split_folders(root: Path, folders: Mapping[str, Path]) -> None:
    """Require all of train, val and test, or none, and no other folder beside them."""
    missing = [split for split in SPLITS if split not in folders]
    others = [name for name in folders if name not in SPLITS]
    if not folders:
        raise FggError(f"the image folder {root} has no class folders; lay it out as {LAYOUTS}")
    if len(missing) == len(SPLITS):
        return
    if missing:
        present = ", ".join(name for name in folders if name in SPLITS)
        beside = f" (other folders: {', '.join(others[:5])})" if others else ""
        raise FggError(
            f"the image folder {root} has {present} but lacks {', '.join(missing)}{beside}; add what is missing, "
            "or put the class folders directly into it to have them split by `fractions`"
        )
    if others:
        raise FggError(
            f"the image folder {root} has other folders beside train, val and test: {', '.join(others[:5])}; "
            "move them elsewhere"
        )


def _check_classes(root: Path, found: list[tuple[str | None, str, Path]]) -> None:
    """Require at least two classes, and the same ones in all splits."""
    if not found:
        raise FggError(f"the image folder {root} has no images in its class folders; lay it out as {LAYOUTS}")
    classes = sorted({label for _, label, _ in found})
    if len(classes) < 2:
        raise FggError(f"the image folder {root} has images of one class only ({classes[0]}); add a second one")
    for split in {split for split, _, _ in found} | (set(SPLITS) if found[0][0] else set()):
        lacking = sorted(set(classes) - {label for own, label, _ in found if own == split})
        if lacking:
            raise FggError(
                f"{root / str(split)} has no images of {', '.join(lacking[:5])}, which other splits have; "
                "every split needs images of every class"
            )
