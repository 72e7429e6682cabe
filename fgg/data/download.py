"""Fetch a source: check its bytes, unpack it, and move it to its place below data/downloads, all or nothing.

Run as ``python -m fgg.data.download --name NAME --sources workflow/sources.csv --output data/downloads``. Weights on
the hub have no row in the table: ``--name hub/OWNER/REPOSITORY --files 'config.json' '*.pt'``.

Checksums are recorded in ``records/`` at the first download and enforced afterwards; checksums in the table are always
enforced. A download stays in ``parts/`` until it is complete.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from fgg import tables
from fgg.data import archives
from fgg.data.hub import fetch_hub, parse
from fgg.data.locations import CONTENTS, HUB, Row, hub_row, read_sources
from fgg.data.transfer import check_disk, fetch, fetch_drive
from fgg.errors import FggError
from fgg.jobs.command import command, json_object

ROOM_TO_UNPACK = 2  # times an archive's size: for the archive itself and its contents


def download(row: Row, output: Path, given: Path | None = None) -> dict[str, Any]:
    """Put a source into ``output/{name}``; returns its contents.json as a dict. An existing source is only checked.

    Args:
        given: a file that was obtained in another way, used instead of the address.

    Raises:
        FggError: the source cannot be fetched or unpacked, does not match the table or the record, or would lie elsewhere.
    """
    check_name(row)
    folder, parts = output / row.name, output / "parts" / row.name
    record_file = output / "records" / f"{row.name}.json"
    record = tables.read_json(record_file) if record_file.is_file() else None
    request = {"kind": row.kind, "address": row.address, "files": row.files, "unpack": row.unpack}
    if record and record["request"] == request and tree_digest(folder) == record["tree"]:
        print(f"{row.name}: already there, as recorded in {record_file}")
        return _write_contents(folder, row, record)
    parts.mkdir(parents=True, exist_ok=True)
    revision, fetched, stated = _fetch(row, parts, given)
    found = {path: _facts(parts / path) for path in fetched}
    _check(row, parts, found, stated, record, record_file)
    complete = parts / "complete"
    shutil.rmtree(complete, ignore_errors=True)
    if row.unpack == "yes":
        _unpack(parts / row.files, complete)
    else:
        for path in fetched:
            (complete / path).parent.mkdir(parents=True, exist_ok=True)
            (parts / path).rename(complete / path)
    record = {
        "name": row.name,
        "request": request,
        "revision": revision,
        "fetched": found,
        "tree": tree_digest(complete, {} if row.unpack == "yes" else found),
    }
    tables.write_json(record_file, record, request)
    contents = _write_contents(complete, row, record)
    _replace(folder, complete)
    shutil.rmtree(parts)
    return contents


def check_name(row: Row) -> None:
    """Raise FggError if a row would be put outside the folder of downloads, or its address on the hub is none."""
    if row.kind == "hub":
        parse(row.address)
    names = [row.name] if row.kind == "hub" else [row.name, row.files]
    for name in names:
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
            raise FggError(f"the source {row.name!r} would be put outside the folder of downloads; correct its row")


def _fetch(row: Row, parts: Path, given: Path | None) -> tuple[str | None, list[str], dict[str, str]]:
    """Fetch into ``parts``; returns the revision, the files there, and the checksums that their server states."""
    if given is not None:
        if row.kind == "hub" or not given.is_file():
            raise FggError(f"--file {given}: give the path of a file, and only for a source that is a single file")
        check_disk(parts, given.stat().st_size * _copies(row), row.name)
        shutil.copyfile(given, parts / row.files)
        return None, [row.files], {}
    if row.kind == "hub":
        revision, stated = fetch_hub(row.address, row.files.split(), parts)
        return revision, sorted(stated), stated
    if row.size:
        there = sum(file.stat().st_size for file in parts.iterdir() if file.is_file())
        check_disk(parts, max(0, int(row.size) * _copies(row) - there), row.name)
    target = parts / row.files
    if not target.is_file():  # else it was fetched before, and a later step was interrupted
        fetch_one = fetch if row.kind == "http" else fetch_drive
        fetch_one(row.address, target, _copies(row))
    return None, [row.files], {}


def _unpack(archive: Path, target: Path) -> None:
    """Unpack an archive; a bad archive is removed, so that the next call fetches it again."""
    try:
        archives.unpack(archive, target)
    except archives.NoRoom:
        raise
    except FggError:
        archive.unlink()
        raise


def _copies(row: Row) -> int:
    return ROOM_TO_UNPACK if row.unpack == "yes" else 1


def _check(
    row: Row,
    parts: Path,
    found: dict[str, Any],
    stated: dict[str, str],
    record: dict[str, Any] | None,
    record_file: Path,
) -> None:
    """Remove a file, and raise FggError, if its SHA-256 is not that of the table, the server or the first download."""
    first = record["fetched"] if record else {}
    for path, facts in found.items():
        wanted = [(row.sha256 if row.kind != "hub" else "", "the table of sources")]
        wanted += [(stated.get(path, ""), "the hub")]
        wanted += [(first.get(path, {}).get("sha256", ""), f"{record_file}, written at the first download,")]
        for sha256, origin in wanted:
            if sha256 and sha256 != facts["sha256"]:
                (parts / path).unlink()
                raise FggError(
                    f"{row.name}: {path} is not the expected file: its SHA-256 is {facts['sha256']}, but {origin} "
                    f"says {sha256}. It was damaged during the download, or has changed at its source; it was removed. "
                    f"Run the same command again; to accept a new version, correct the table, or delete {record_file}"
                )


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size": path.stat().st_size}


def tree_digest(folder: Path, known: Mapping[str, Any] | None = None) -> str:
    """SHA-256 over the paths and checksums of all files in a folder, except its contents.json.

    Args:
        known: path -> facts of files whose checksums need not be computed again.
    """
    digest = hashlib.sha256()
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    for path in sorted(set(files) - {CONTENTS}):
        facts = (known or {}).get(path) or _facts(files[path])
        digest.update(f"{facts['sha256']} {path}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _write_contents(folder: Path, row: Row, record: dict[str, Any]) -> dict[str, Any]:
    """Write the folder's contents.json, which says what the folder holds and where it is from."""
    contents = {
        "name": row.name,
        "kind": row.kind,
        "address": row.address,
        "revision": record["revision"],
        "licence": row.licence,
        "citation": row.citation,
        "fetched": record["fetched"],
        "tree": record["tree"],
    }
    tables.write_json(folder / CONTENTS, contents, record["request"])
    return contents


def _replace(folder: Path, complete: Path) -> None:
    """Move a complete folder to its place, replacing any existing folder."""
    old = complete.with_name("old")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    complete.rename(folder)


def find_row(name: str, files: Sequence[str], sources: Path | None) -> Row:
    """The source's row of the table, or a row made from an address on the hub.

    Raises:
        FggError: there is no such source.
    """
    if name.startswith(f"{HUB}/"):
        if not files:
            raise FggError("--files: name the files of the repository, such as config.json '*.pt'")
        return hub_row(name, files)
    rows = read_sources(sources) if sources else {}
    if name not in rows:
        known = ", ".join(sorted(rows)) or "none; give --sources"
        raise FggError(f"--name: no source is named {name!r}; known: {known}")
    return rows[name]


@command
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, fetch the source, and print a summary."""
    parser = argparse.ArgumentParser(prog="python -m fgg.data.download", description=__doc__)
    parser.add_argument("--name", required=True, help="a source of the table, or hub/OWNER/REPOSITORY")
    parser.add_argument("--row", type=json_object, help="JSON: the source's row of the table, instead of --sources")
    parser.add_argument("--sources", type=Path, help="the table of sources, such as workflow/sources.csv")
    parser.add_argument("--files", nargs="*", default=[], help="for hub/…: the files to fetch, with * and ?")
    parser.add_argument("--output", type=Path, required=True, help="folder for all downloads")
    parser.add_argument("--file", type=Path, help="a file that was obtained in another way, used instead of fetching")
    arguments = parser.parse_args(argv)
    own = arguments.row
    row = Row(**own) if own else find_row(arguments.name, arguments.files, arguments.sources)
    contents = download(row, arguments.output, arguments.file)
    size = sum(facts["size"] for facts in contents["fetched"].values())
    print(f"{row.name}: {len(contents['fetched'])} files, {size / 1e6:.1f} MB; checksums in {CONTENTS}")
    print(json.dumps({path: facts["sha256"] for path, facts in contents["fetched"].items()}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
