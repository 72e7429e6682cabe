"""The files that runs make in a folder: what is compared, whether each is whole, what is left over, and fresh starts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
import xml.etree.ElementTree
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from PIL import Image
from safetensors import safe_open

from fgg.checksums import FOLDER as RECORDS

PLACES = ("data", "results")
MADE = (*PLACES, "logs", "benchmarks", ".snakemake")
MANIFEST = "results/manifest.json"  # has the duration of each job, and so differs between equal runs


def content(folder: Path) -> dict[str, str]:
    """Name -> hash of each file below ``data`` and ``results``, with the records of checksums.

    The record of the run is compared without the durations in it, and its own checksum is left out.
    """
    found = {}
    for path in _below(folder):
        name, data = path.relative_to(folder).as_posix(), path.read_bytes()
        if name == MANIFEST:
            with contextlib.suppress(ValueError):  # a damaged one counts as it is
                data = json.dumps({**json.loads(data), "seconds": {}}).encode()
        if path.name != f"{Path(MANIFEST).name}.json":
            found[name] = hashlib.sha256(data).hexdigest()
    return found


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """What differs between the contents of two folders, in words."""
    return [
        f"{name} {'is missing' if name not in found else 'is left over' if name not in expected else 'has other bytes'}"
        for name in sorted({*found, *expected})
        if found.get(name) != expected.get(name)
    ]


def finished(folder: Path) -> list[Path]:
    """The files that have their final name."""
    return [path for path in _below(folder) if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def check_no_partial_file(folder: Path, damaged: Mapping[Path, bytes] | None = None) -> int:
    """Read every file with a final name to its end; returns how many there are.

    Args:
        damaged: content of the files that were damaged on purpose, which may not have been mended yet.

    Raises:
        AssertionError: one of them is not whole.
    """
    final = finished(folder)
    for path in final:
        try:
            check_whole(path)
        except FileNotFoundError:
            pass  # a job that still runs removes what it makes anew
        except Exception as error:
            if path.is_file() and (damaged or {}).get(path) == path.read_bytes():
                continue
            raise AssertionError(f"{path} is not whole: {error}") from error
    return len(final)


def check_whole(path: Path) -> None:
    """Read a file to its end; a partial one raises."""
    if path.suffix == ".parquet":
        assert pq.read_table(path).num_rows
    elif path.suffix == ".json":
        assert json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".csv":
        assert path.read_bytes().endswith(b"\n") and len(pd.read_csv(path).columns)
    elif path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
    elif path.suffix == ".svg":
        xml.etree.ElementTree.fromstring(path.read_text(encoding="utf-8"))
    elif path.suffix == ".html":
        assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    elif path.suffix == ".md":
        assert path.read_bytes().endswith(b"\n")
    elif path.suffix == ".safetensors":
        with safe_open(path, "np") as file:
            assert [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 - no mapping
    elif path.name == "training.pt":  # the state of a training, in PyTorch's form
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
    else:
        raise AssertionError(f"a file of unknown kind: {path}")


def leftovers(folder: Path) -> list[str]:
    """What a finished run must not leave: temporary files, locks, marks of unfinished work, shared pieces."""
    state = folder / ".snakemake"
    found = [*(state / "locks").glob("*"), *(state / "incomplete").rglob("*"), *(state / "fgg" / "shared").rglob("*")]
    found += [*(state / "fgg").glob(".*")]
    for place in (*PLACES, "logs", "benchmarks"):
        found += [path for path in (folder / place).rglob(".*") if path.name != RECORDS]
    for record in (state / "metadata").rglob("*"):
        try:
            json.loads(record.read_bytes()) if record.is_file() else None
        except ValueError:
            found.append(record)  # cut off: Snakemake would not know any more what made the file
    return sorted(path.relative_to(folder).as_posix() for path in found)


def start_over(folder: Path, draw: random.Random) -> tuple[str, dict[Path, bytes]]:
    """Take away a random part of what a finished run has made; says what, and the content of files that it has damaged."""
    files = sorted(finished(folder), key=lambda path: path.stat().st_mtime_ns)
    how = draw.choice(["empty", "unfinished", "unfinished", "unfinished", "deleted", "damaged"])
    if how == "empty":
        for place in MADE:
            shutil.rmtree(folder / place, ignore_errors=True)
        return "from an empty folder", {}
    if how == "unfinished":
        first = draw.randrange(len(files))
        for path in files[first:]:
            path.unlink()
        return f"without {files[first].relative_to(folder).as_posix()} and all that was made later", {}
    some = draw.sample(files, draw.randint(1, min(6, len(files))))
    names = ", ".join(path.relative_to(folder).as_posix() for path in some)
    for path in some:
        if how == "deleted":
            path.unlink()
        else:
            data = bytearray(path.read_bytes())
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            path.write_bytes(data)
    return f"with {how}: {names}", {path: path.read_bytes() for path in some if how == "damaged"}


def _below(folder: Path) -> list[Path]:
    return [path for place in PLACES for path in sorted((folder / place).rglob("*")) if path.is_file()]
