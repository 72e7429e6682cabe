"""Hashes of the user's files: their content decides whether jobs run again, not their dates. Does not import torch.

A file is read once; its hash is kept in ``.snakemake/fgg/content.json`` as long as the file has the same size and dates.
"""

from __future__ import annotations

import atexit
import errno
import functools
import hashlib
import json
import os
import stat
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
    # A folder may hold a million files, for which paths as strings are ten times as fast as objects.
    whole = str(path.absolute())
    if path.is_dir():
        found = ((name, _hash(f"{whole}/{name}")) for name in sorted(_names(path)))
        return [[name, own] for name, own in found if own is not None]
    own = _hash(whole)
    return [] if own is None else [["", own]]


def _names(path: Path) -> Iterator[str]:
    """The files in a folder, at any depth. A link to a folder that has been walked through is left out."""
    seen = set()
    for folder, inside, names in os.walk(path, followlinks=True):
        seen.add(Path(folder).resolve())
        inside[:] = sorted(name for name in inside if Path(folder, name).resolve() not in seen)
        place = Path(folder).relative_to(path).as_posix()
        yield from names if place == "." else (f"{place}/{name}" for name in names)


def _hash(path: str) -> str | None:
    """The hash of a file's content; None if it is not a file, such as a link that leads nowhere."""
    try:
        facts = os.stat(path)  # noqa: PTH116 - see above
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    if not stat.S_ISREG(facts.st_mode):
        return None
    own = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]
    known = _cache().get(path)
    if known and known[:-1] == own:
        return known[-1]
    try:
        found = digest(Path(path))
    except OSError:
        return f"unread, {facts.st_size} bytes"
    _cache()[path] = [*own, found]
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
