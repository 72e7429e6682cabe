"""What the sources that are downloaded share. Each reads ``settings["path"]``, or else what lies below data/downloads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fgg.data.locations import CONTENTS, DOWNLOADS
from fgg.errors import FggError


def root_of(name: str, settings: Mapping[str, Any]) -> Path:
    """The folder of a source that is downloaded: its ``path``, or else where its download lies. Raises FggError: none."""
    root = Path(settings["path"]).expanduser() if settings.get("path") else Path(DOWNLOADS, name)
    if not root.is_dir():
        raise FggError(f"the folder {root} does not exist; leave `path` out to have {name} downloaded")
    return root


def closest(root: Path, name: str) -> Path:
    """The file or folder of that name below a folder; the one closest to it."""
    found = sorted((path for path in root.rglob(name)), key=lambda path: (len(path.parts), path))
    if not found:
        raise FggError(f"{root} holds no {name}; it is not laid out as it was handed out")
    return found[0]


def facts_of(root: Path) -> dict[str, Any]:
    """What the download has noted."""
    place = root / CONTENTS
    if not place.is_file():
        return {}
    note = json.loads(place.read_text(encoding="utf-8"))
    return {
        "version": note["revision"] or note["address"],
        "citation": note["citation"],
        "licence": note["licence"],
        "checksum": note["tree"],
    }
