"""Where downloads lie, and how a setting that names weights becomes a path. Imports no torch.

Everything fetched lies below ``data/downloads``: ``{source}/`` for a line of the table of sources,
``hub/{owner}/{repository}/`` for weights named as ``hf://OWNER/REPOSITORY/FILE``. A folder is complete when its
``contents.json`` is there, which is what the workflow's jobs wait for.
"""

from __future__ import annotations

import csv
import glob
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from fgg.errors import FggError

DOWNLOADS, CONTENTS, HUB, SCHEME = "data/downloads", "contents.json", "hub", "hf://"
RESERVED = (HUB, "parts", "records")  # folders beside those of the sources
KINDS = ("http", "drive", "hub")
UNPACK = ("no", "yes")
LAYER = "{layer}"


@dataclass(frozen=True)
class Row:
    """A line of the table of sources.

    ``address``: a URL (http), the id of a file or a URL (drive), or OWNER/REPOSITORY, of a data set
    datasets/OWNER/REPOSITORY, both with @REVISION if wanted (hub). ``files``: the name under which a single file is
    kept, or the repository's files to fetch, with * and ?, separated by blanks. ``size``: bytes, about.
    """

    name: str
    kind: str
    address: str
    files: str
    unpack: str = "no"
    sha256: str = ""
    size: str = ""
    licence: str = ""
    citation: str = ""


def read_sources(path: str | Path) -> dict[str, Row]:
    """The table of sources by name.

    Raises:
        FggError: no such file, other columns, a name twice or taken, an unknown kind, or a malformed value.
    """
    path = Path(path)
    if not path.is_file():
        raise FggError(f"sources: {path} does not exist; give a table of sources such as workflow/sources.csv")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        columns = [field.name for field in fields(Row)]
        if reader.fieldnames != columns:
            raise FggError(f"sources: {path} has the columns {reader.fieldnames}; they must be {columns}")
        lines = list(reader)
    rows: dict[str, Row] = {}
    for line in lines:
        if None in line or None in line.values():
            raise FggError(f"sources: {path}: the line of {line['name']!r} has too many or too few fields")
        row = Row(**{key: value.strip() for key, value in line.items()})
        fault = _fault(row)
        if row.name in rows:
            fault = "the name is there twice"
        if fault:
            raise FggError(f"sources: {path}: {row.name!r}: {fault}")
        rows[row.name] = row
    return rows


def _fault(row: Row) -> str:
    """What is wrong with a line, or nothing."""
    if not row.name or row.name in RESERVED or row.name != Path(row.name).name or row.name.startswith("."):
        return f"not a name for a folder (and not one of {', '.join(RESERVED)})"
    if row.kind not in KINDS:
        return f"kind {row.kind!r} is unknown; choose from: {', '.join(KINDS)}"
    if row.unpack not in UNPACK:
        return f"unpack {row.unpack!r} is unknown; choose from: {', '.join(UNPACK)}"
    if not row.address or not row.files:
        return "address and files must not be empty"
    if row.kind != "hub" and (row.files != Path(row.files).name or row.files in (".", "..")):
        return f"files {row.files!r} is not the name of one file"
    if row.sha256 and (len(row.sha256) != 64 or set(row.sha256) - set("0123456789abcdef")):
        return "sha256 is not 64 hexadecimal digits in lower case"
    if row.size and not row.size.isdigit():
        return f"size {row.size!r} is not a number of bytes"
    return ""


def local(weights: str) -> str:
    """The path at which weights will lie: ``hf://OWNER/REPOSITORY/FILE`` becomes one below data/downloads/hub.

    Raises:
        FggError: an address of the hub without owner, repository or file.
    """
    if not weights.startswith(SCHEME):
        return weights
    parts = weights.removeprefix(SCHEME).split("/")
    if len(parts) < 3 or not all(parts) or {".", ".."} & set(parts):
        raise FggError(f"{weights!r} is not an address of weights; write hf://OWNER/REPOSITORY/FILE")
    return "/".join([DOWNLOADS, HUB, *parts])


def of_layer(weights: str | Mapping[str, str], layer: Any) -> str:
    """The setting ``sae.weights`` for one layer: itself, or of a mapping the layer's entry, or the default's.

    Raises:
        FggError: the mapping has neither.
    """
    if isinstance(weights, str):
        return weights
    try:
        return weights[str(layer)] if str(layer) in weights else weights["default"]
    except KeyError:
        raise FggError(f"sae.weights: no entry for layer {layer}, and no default") from None


def fetched(path: str) -> tuple[str, str] | None:
    """(source, what is wanted of it) of a path that a download makes; None for any other path."""
    parts = PurePosixPath(path).parts
    depth = len(PurePosixPath(DOWNLOADS).parts)
    if parts[:depth] != PurePosixPath(DOWNLOADS).parts or len(parts) <= depth + 1:
        return None
    own = depth + (3 if parts[depth] == HUB else 1)
    if len(parts) <= own:
        return None
    return "/".join(parts[depth:own]), "/".join(parts[own:])


def contents(source: str) -> str:
    """The file that says that a source is completely there."""
    return f"{DOWNLOADS}/{source}/{CONTENTS}"


def locate(path: str | Path, key: str) -> Path:
    """The one file or folder that a path with ``*``, ``?`` or ``**`` means; a path without is given back.

    Raises:
        FggError: nothing or several match; ``key`` is the setting that the message names.
    """
    path = Path(path)
    if path.exists() or not glob.has_magic(str(path)):
        return path
    found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - a Path has no glob of its own pattern
    if len(found) == 1:
        return Path(found[0])
    if found:
        names = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
        raise FggError(f"{key}: {path} matches {len(found)} files ({names}); name the right one")
    base = _fixed_part(path)
    if not base.is_dir():
        raise FggError(f"{key}: {path} matches nothing; the folder {base} does not exist")
    there = sorted(file.relative_to(base).as_posix() for file in base.rglob("*") if file.is_file())
    names = ", ".join(there[:5]) + (f" and {len(there) - 5} more" if len(there) > 5 else "") or "nothing"
    raise FggError(f"{key}: {path} matches nothing; {base} holds {names}")


def _fixed_part(path: Path) -> Path:
    """The deepest folder of the path that is named without a wildcard."""
    plain = []
    for part in path.parts[:-1]:
        if glob.has_magic(part):
            break
        plain.append(part)
    return Path(*plain)
