"""Shared by the downloaded sources. Each reads ``settings["path"]``, or else its folder below data/downloads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fgg.data.locations import CONTENTS, DOWNLOADS
from fgg.errors import FggError
from fgg.tables import read_json


def root_of(name: str, settings: Mapping[str, Any]) -> Path:
    """The folder of a downloaded source: its ``path``, or else its download. Raises FggError if it does not exist."""
    root = Path(settings["path"]).expanduser() if settings.get("path") else Path(DOWNLOADS, name)
    if not root.is_dir():
        raise FggError(f"the folder {root} does not exist; leave out `path` to download {name}")
    return root


def closest(root: Path, name: str) -> Path:
    """The file or folder of that name below ``root`` that is closest to it."""
    found = sorted((path for path in root.rglob(name)), key=lambda path: (len(path.parts), path))
    if not found:
        raise FggError(f"{root} holds no {name}; its layout is not that of the original download")
    return found[0]


def facts_of(root: Path) -> dict[str, Any]:
    """The facts that the download recorded."""
    place = root / CONTENTS
    if not place.is_file():
        return {}
    note = read_json(place)
    return {
        "version": note["revision"] or note["address"],
        "citation": note["citation"],
        "licence": note["licence"],
        "checksum": note["tree"],
    }
