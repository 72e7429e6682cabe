"""Hashes of the user's files: their content decides whether jobs run again, not their dates. Does not import torch.

A file is read once; its hash is kept in ``.snakemake/fgg/content.json`` as long as the file has the same size and dates.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fgg.checksums import digest
from fgg.tables import atomic

CACHE = Path(".snakemake") / "fgg" / "content.json"


def content_hash(paths: Iterable[str]) -> str:
    """A hash of the names and the content of files and folders, at any depth; empty if there are none.

    Files that cannot be read count by their size: the job that reads them says what is wrong.
    """
    found = [_one(Path(path)) for path in paths]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:12] if any(found) else ""


def _one(path: Path) -> list[list[str]]:
    """Name within the path and hash of each file, in the order of the names."""
    if path.is_dir():
        files = sorted(name for name in _names(path) if (path / name).is_file())
        return [[name, _hash(path / name)] for name in files]
    return [["", _hash(path)]] if path.is_file() else []


def _names(path: Path) -> Iterator[str]:
    """The files in a folder, at any depth. A link to a folder that has been walked through is left out."""
    seen = set()
    for folder, inside, names in os.walk(path, followlinks=True):
        seen.add(Path(folder).resolve())
        inside[:] = sorted(name for name in inside if Path(folder, name).resolve() not in seen)
        yield from (Path(folder, name).relative_to(path).as_posix() for name in names)


def _hash(path: Path) -> str:
    facts = path.stat()
    own = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]
    known = _cache().get(str(path.absolute()))
    if known and known[:-1] == own:
        return known[-1]
    try:
        found = digest(path)
    except OSError:
        return f"unread, {facts.st_size} bytes"
    _cache()[str(path.absolute())] = [*own, found]
    _keep()
    return found


@functools.cache
def _cache() -> dict[str, list[Any]]:
    try:
        own = json.loads(CACHE.read_text(encoding="utf-8"))
        return {str(path): list(facts) for path, facts in own.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


@functools.cache
def _keep() -> None:
    """Write the hashes at the end of this process, if it is one of a run."""
    if CACHE.parent.parent.is_dir():
        atexit.register(_write, CACHE.absolute(), _cache())


def _write(path: Path, hashes: dict[str, list[Any]]) -> None:
    try:
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(hashes), encoding="utf-8")
    except OSError:
        return  # the files are read again the next time
