"""Read and write tables and records; writes are atomic, and each file records the settings that made it.

Every Parquet and JSON file carries the schema version and the settings that made it, under the
key ``fgg``. Nothing in a file depends on the time or the machine, so equal inputs give equal bytes.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fgg.checksums import check, write_record
from fgg.errors import FggError, doubled_braces, parse_json
from fgg.liveness import alive, check_wanted

SCHEMA_VERSION = 1
FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")  # a spreadsheet computes a cell that begins so


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder, and move it to ``path`` on success, with a record of its checksum.

    Operating-system errors name ``path``. Temporary files that killed processes of this machine left there are removed.

    Raises:
        FggError: the run that needs the file has been killed.
    """
    path = Path(path)
    check_wanted()
    prefix = f".{path.name}.{platform.node()[:20]}."
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent, prefix)
        descriptor, name = tempfile.mkstemp(prefix=f"{prefix}{os.getpid()}.", dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # mkstemp makes private files
            check_wanted()
            write_record(path, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is not None and (error.filename is None or Path(error.filename).name.startswith(prefix)):
            error.filename, error.filename2 = str(path), None
        raise


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that replaces it if no error occurs.

    Raises:
        FggError: the run that started this job was killed.
    """
    temporary = path.with_name(f".{path.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        check_wanted()
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sweep(folder: Path, prefix: str) -> None:
    """Remove a target's temporary files whose writers are dead."""
    for left in folder.glob(f"{glob.escape(prefix)}*"):
        process = re.match(r"(\d+)\.", left.name.removeprefix(prefix))
        if process and not alive(int(process[1])):
            left.unlink(missing_ok=True)


def column(values: Any) -> pa.Array:
    """An Arrow column: a 2-D numpy array (n, k) becomes a fixed-size list of k."""
    if isinstance(values, np.ndarray) and values.ndim == 2:
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return pa.array(values)


def as_table(columns: Mapping[str, Any] | pa.Table) -> pa.Table:
    """Columns (name -> 1-D sequence, or 2-D array for lists) as an Arrow table; a table stays as it is."""
    return columns if isinstance(columns, pa.Table) else pa.table({k: column(v) for k, v in columns.items()})


def write_table(
    path: str | Path,
    columns: Mapping[str, Any] | pa.Table,
    settings: Mapping[str, Any],
    made_from: Mapping[str, Any] | None = None,
) -> None:
    """Write columns (name -> 1-D sequence, or 2-D array for lists) or an Arrow table as Parquet.

    Args:
        settings: the settings that made the table.
        made_from: the other inputs of the table, such as a hash of the code and checksums of files.
    """
    table = as_table(columns)
    note = {"schema": SCHEMA_VERSION, "settings": settings, **({"made_from": made_from} if made_from else {})}
    marks = {**(table.schema.metadata or {}), b"fgg": json.dumps(note, sort_keys=True).encode()}
    table = table.replace_schema_metadata(marks)
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def read_table(path: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet table whose pages and, if it has a record, whose content fit their checksums.

    Raises:
        FggError: the file is missing, damaged, or lacks a column.
    """
    check(path)
    if Path(path).is_dir():
        raise FggError(f"{path} is a folder, but a table is needed; move it away and run the workflow again")
    try:
        wanted = list(columns) if columns is not None else None
        return pq.read_table(path, columns=wanted, partitioning=None, page_checksum_verification=True)
    except FileNotFoundError:
        raise FggError(f"{path} does not exist; run the workflow to make it") from None
    except PermissionError:
        raise
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        reason = " ".join(str(error).split())
        raise FggError(f"{path} cannot be read as a table ({reason}); delete it and run the workflow again") from None


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings that made a Parquet table. Raises FggError for a table that fgg did not write."""
    return _note(path)["settings"]


def read_made_from(path: str | Path) -> dict[str, Any]:
    """The other inputs of a Parquet table; empty if none were recorded. Raises FggError like `read_settings`."""
    return _note(path).get("made_from", {})


def _note(path: str | Path) -> dict[str, Any]:
    metadata = read_table(path, columns=[]).schema.metadata or {}
    if b"fgg" not in metadata:
        raise FggError(f"{path} has no record of what made it; delete it and run the workflow again")
    return json.loads(metadata[b"fgg"])


def matrix(table: pa.Table, name: str) -> np.ndarray:
    """A fixed-size list column as an array (rows, k)."""
    chunks = table.column(name).combine_chunks()
    return np.asarray(chunks.flatten()).reshape(len(table), chunks.type.list_size)


def write_json(path: str | Path, record: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Write a record as JSON, with the schema version and the settings under ``fgg``."""
    note = {"fgg": {"schema": SCHEMA_VERSION, "settings": settings}}
    text = json.dumps({**record, **note}, indent=1, allow_nan=False, ensure_ascii=False)
    with atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON record; looking up a missing key in it raises FggError.

    Raises:
        FggError: the file is missing or damaged.
    """
    again = "delete it and run the workflow again"
    check(path)
    try:
        place = doubled_braces(str(path))
        return parse_json(Path(path).read_text(encoding="utf-8"), f"{place} lacks {{key}}; {again}")
    except FileNotFoundError:
        raise FggError(f"{path} does not exist; run the workflow to make it") from None
    except ValueError as error:
        raise FggError(f"{path} is damaged ({error}); {again}") from None


def write_csv(path: str | Path, frame: Any) -> None:
    """Write a pandas frame as CSV, with numbers in the shortest form that reads back unchanged.

    A text that a spreadsheet would compute, since it begins with ``=``, ``+``, ``-``, ``@``, a tab or a line break, gets an
    apostrophe in front; `read_csv` takes it away. Numbers stay as they are.
    """
    safe = _with_texts(frame, _escaped)
    # pandas' reader ends a line at a carriage return that is not quoted, and csv's writer does not quote it.
    returns = any(
        "\r" in text for at in range(safe.shape[1]) for text in _texts_in(safe.iloc[:, at]) | {str(safe.columns[at])}
    )
    quoting = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
    with atomic(path) as temporary:
        safe.to_csv(temporary, index=False, lineterminator="\n", quoting=quoting)


def read_csv(path: str | Path, texts: Sequence[str] = ()) -> Any:
    """Read a CSV of the workflow as a pandas frame; ``texts`` are columns to read as text even if they look numeric.

    Only an empty cell is a missing value: a class may be called ``NA`` or ``null``.

    Raises:
        FggError: the file is missing or damaged.
    """
    import pandas as pd  # imported here so that jobs without frames start faster

    check(path)
    try:
        frame = pd.read_csv(path, dtype=dict.fromkeys(texts, str), keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise FggError(f"{path} does not exist; run the workflow to make it") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise FggError(f"{path} cannot be read as a table ({error}); delete it and run the workflow again") from None
    if not isinstance(frame.index, pd.RangeIndex):
        raise FggError(
            f"{path} cannot be read as a table (a row is longer than its head); delete it and run the workflow again"
        )
    return _with_texts(frame, _original)


def _with_texts(frame: Any, change: Callable[[str], str]) -> Any:
    """The frame with texts changed, in its cells and in the names of its columns; the kinds of columns stay."""
    found = frame.copy(deep=False)
    for at, kind in enumerate(frame.dtypes):
        own = frame.iloc[:, at]
        new = {text: changed for text in _texts_in(own) if (changed := change(text)) != text}
        if new:
            values = [new.get(value, value) if isinstance(value, str) else value for value in own]
            found.isetitem(
                at,
                type(frame)({"": values}, index=frame.index).iloc[:, 0].astype(object if kind == "category" else kind),
            )
    return found.rename(columns={name: change(name) for name in frame if isinstance(name, str)})


def _texts_in(column: Any) -> set[str]:
    """The different texts in a column of a frame."""
    return {value for value in column if isinstance(value, str)} if column.dtype.kind == "O" else set()


def _escaped(text: str) -> str:
    return f"'{text}" if FORMULA.match(text) else text


def _original(text: str) -> str:
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text
