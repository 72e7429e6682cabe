"""Length and checksum of each file that a run writes, and the check before a job reads one. Does not import torch.

A file ``data/…/NAME`` or ``results/…/NAME`` of the working folder has its record in ``.checksums/NAME.json`` beside it:
its length, its SHA-256, and the versions of the libraries that can change numbers. A file without a record, such as one
that the user brings, is not checked.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fgg.errors import FggError

FOLDER = ".checksums"
PLACES = ("data", "results")  # where a run writes its files
SHARED = "FGG_SHARED"  # environment variable: the folder that the jobs of a run share
LIBRARIES = ("numpy", "pandas", "pillow", "pyarrow", "sae-lens", "scipy", "timm", "torch", "torchvision")
DAMAGED = "{path} is damaged: {how}; run the workflow again, which first makes this file anew"


@dataclass(frozen=True)
class Record:
    """What the writer of a file knew of it.

    Attributes:
        size: length in bytes.
        sha256: of the content.
        versions: library -> version.
    """

    size: int
    sha256: str
    versions: dict[str, str] = field(default_factory=dict)


def place(path: Path) -> Path:
    """The file of a file's record, whether or not it exists."""
    return path.parent / FOLDER / f"{path.name}.json"


def write_record(path: Path, content: Path) -> None:
    """Record the content that a file is about to get, if the file lies in a folder of the run.

    The record is written first: a writer that is killed in between leaves a file that does not fit, which is made anew.
    """
    if not _of_a_run(path):
        return
    own = {"bytes": content.stat().st_size, "sha256": digest(content), "versions": versions()}
    _write(place(path), json.dumps(own))


def read_record(path: Path) -> Record | None:
    """The record of a file; None if it has none. A record that cannot be read fits no file."""
    try:
        own = json.loads(place(path).read_bytes())
        return Record(int(own["bytes"]), str(own["sha256"]), dict(own["versions"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, LookupError, TypeError):
        return Record(-1, "")


def damage(path: Path, record: Record) -> str:
    """How the content of a file differs from a record; empty if it does not."""
    size = path.stat().st_size
    if size != record.size:
        return f"it has {size} bytes, but its job wrote {record.size}" if record.size >= 0 else "its record is damaged"
    return "" if digest(path) == record.sha256 else "its content is not what its job wrote"


def checksum(path: Path) -> str:
    """SHA-256 of a file; computed once per run, as long as the file is not touched.

    Raises:
        FggError: the file does not exist, or its content is not what its record says.
    """
    try:
        facts = path.stat()
    except FileNotFoundError:
        raise FggError(f"{path} does not exist; check the path, or run the workflow to make it") from None
    if path.is_dir():
        raise FggError(f"{path} is a folder, but a file is needed; move it away and run the workflow again")
    found = _known(path.resolve(), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    record = read_record(path)
    if record is not None and (facts.st_size, found) != (record.size, record.sha256):
        how = damage(path, record) or "its content changed while it was read"
        _write(place(path), "damaged")  # so that the next run looks again, even if no date tells
        raise FggError(DAMAGED.format(path=path, how=how))
    return found


def check(path: str | Path) -> None:
    """Raise FggError if a file that a run has written is damaged. Files that do not exist are left to their reader."""
    path = Path(path)
    if place(path).is_file() and path.is_file():
        checksum(path)


@functools.lru_cache(maxsize=1024)
def _known(path: Path, *facts: int) -> str:
    shared = os.environ.get(SHARED)
    if not shared:
        return digest(path)
    name = hashlib.sha256(json.dumps([str(path), *facts]).encode()).hexdigest()[:20]
    note = Path(shared, "checksums", name)
    if note.is_file() and (known := note.read_text(encoding="ascii")):
        return known
    found = digest(path)
    _write(note, found)
    return found


def digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def written(folder: Path) -> Iterator[tuple[str, Record]]:
    """The files of a folder that have a record, as paths relative to it, and their records."""
    for name in PLACES:
        for records in sorted((folder / name).rglob(FOLDER)):
            for record in sorted(records.glob("*.json")):
                path = records.parent / record.name.removesuffix(".json")
                if path.is_file() and (own := read_record(path)):
                    yield path.relative_to(folder).as_posix(), own


def tidy(folder: Path) -> None:
    """Remove the records of files that are gone, such as shards, and what killed writers left among the records."""
    for name in PLACES:
        for records in sorted((folder / name).rglob(FOLDER)):
            for record in sorted(records.iterdir()):
                if record.name.startswith(".") or not (records.parent / record.name.removesuffix(".json")).exists():
                    record.unlink(missing_ok=True)
            for empty in (records, records.parent):
                if not any(empty.iterdir()):
                    empty.rmdir()


@functools.cache
def versions() -> dict[str, str]:
    """The versions of the installed libraries that can change numbers."""
    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _of_a_run(path: Path) -> bool:
    """Whether a file lies in a folder of the working folder that runs write to."""
    try:
        parts = path.absolute().relative_to(Path.cwd()).parts
    except ValueError:
        return False
    return len(parts) > 1 and parts[0] in PLACES and FOLDER not in parts


def _write(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:60]}.", dir=path.parent)
    temporary: Any = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
