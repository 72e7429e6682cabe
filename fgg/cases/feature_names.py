"""The user's own names of features: a small table beside ``results``, which fgg reads and never writes.

``feature_names.csv`` has the columns dataset, layer, feature and name. Rows that fgg cannot use are told, and the others
are used. Does not import torch.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fgg.errors import FggError
from fgg.visible import visible

NAMES_FILE = "feature_names.csv"
COLUMNS = ("dataset", "layer", "feature", "name")
FORMULA = ("=", "+", "-", "@")  # a spreadsheet computes a cell that starts so
MOST_LETTERS, MOST_LINES, MOST_LETTERS_OF_A_LINE, MOST_BYTES = 200, 20, 100_000, 2**26


@dataclass(frozen=True)
class FeatureNames:
    """Names by (dataset, layer, feature), and a sentence about each row that is left out."""

    names: dict[tuple[str, int, int], str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def of_layer(self, dataset: str, layer: int) -> dict[int, str]:
        """Feature -> name, for one SAE."""
        return {feature: name for (own, at, feature), name in self.names.items() if (own, at) == (dataset, layer)}

    def unknown(self, known: Mapping[str, Collection[int]], elsewhere: Collection[str] = ()) -> list[str]:
        """A sentence about each row of a dataset or a layer without feature pages.

        Args:
            known: dataset -> layers with feature pages.
            elsewhere: other datasets that exist and are not run now; their rows are as they should be.
        """
        found = []
        for dataset, layer, feature in self.names:
            if dataset not in known:
                if dataset not in elsewhere:
                    found.append(f"{NAMES_FILE}: feature {feature} of {dataset!r}: there is no such dataset")
            elif layer not in known[dataset]:
                layers = ", ".join(map(str, sorted(known[dataset])))
                found.append(
                    f"{NAMES_FILE}: feature {feature} of layer {layer} of {dataset!r}: its feature pages are of layer {layers}"
                )
        return found


def read_feature_names(path: str | Path = NAMES_FILE) -> FeatureNames:
    """Read the table; an absent file has no names. Of two rows for the same feature, the last one counts.

    Cells may be separated by commas or semicolons. An apostrophe before ``=``, ``+``, ``-`` or ``@``, which keeps
    spreadsheets from computing the cell, is not part of the name. A row with an empty name gives none. A row in which a
    quote is not closed is left out, and the next ones are read.

    Raises:
        FggError: the file is not CSV in UTF-8, or lacks a column.
    """
    try:
        if Path(path).stat().st_size > MOST_BYTES:
            raise FggError(f"{path} is larger than {MOST_BYTES:,} bytes, too large for names; give a table of names")
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return FeatureNames()
    except UnicodeDecodeError as error:
        raise FggError(f"{path} is not text in UTF-8 ({error.reason}); save it as CSV in UTF-8") from None
    if "\0" in text:
        raise FggError(f"{path} is no text; save it as CSV in UTF-8")
    if not text.strip():
        return FeatureNames()
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    start = next(at for at, line in enumerate(lines) if line.strip())
    delimiter = ";" if ";" in lines[start] and "," not in lines[start] else ","
    heads = [name.strip().lower() for name in _cells(lines[start : start + 1], delimiter) or ()]
    if missing := [name for name in COLUMNS if name not in heads]:
        raise FggError(f"{path} lacks the column {', '.join(missing)}; its first line must be {','.join(COLUMNS)}")
    found = FeatureNames()
    for at, cells in _rows(lines, start + 1, delimiter):
        where = f"{Path(path).name}: line {at + 1}"
        if cells is None:
            found.remarks.append(f"{where} is left out: a quote in it is not closed")
        elif any(cell.strip() for cell in cells[len(heads) :]):
            found.remarks.append(
                f"{where} is left out: it has more cells than the first line; put a name with {delimiter} in quotes"
            )
        else:
            row = dict(zip(heads, [*cells, *[""] * len(heads)], strict=False))
            _add(found, {name: row[name].strip() for name in COLUMNS}, where)
    return found


def _rows(lines: Sequence[str], at: int, delimiter: str) -> Iterator[tuple[int, list[str] | None]]:
    """The place and the cells of each row, which may have several lines in quotes; None if a quote is not closed.

    A quote is not closed if the text up to the next one holds a whole row: that row would be lost.
    """
    while at < len(lines):
        end, cells = at + 1, _cells(lines[at : at + 1], delimiter)
        while cells is None and end < min(len(lines), at + MOST_LINES) and not _is_row(lines[end], delimiter):
            end += 1
            cells = _cells(lines[at:end], delimiter)
        yield at, cells
        at = end if cells is not None else at + 1


def _cells(lines: Sequence[str], delimiter: str) -> list[str] | None:
    """The cells of a row; None if it ends within quotes."""
    text = [f"{line}\n" for line in lines]
    try:
        found = list(csv.reader(text, delimiter=delimiter, strict=True))
    except csv.Error as error:
        if "end of data" in str(error) or len(lines) > 1 or len(lines[0]) > MOST_LETTERS_OF_A_LINE:
            return None
        found = list(csv.reader(text, delimiter=delimiter))  # letters behind a closing quote
    return found[0] if found else []


def _is_row(line: str, delimiter: str) -> bool:
    cells = line.split(delimiter)
    return len(cells) >= len(COLUMNS) and sum(re.fullmatch(r"\s*\d+\s*", cell) is not None for cell in cells) >= 2


def _add(found: FeatureNames, row: Mapping[str, str], where: str) -> None:
    """Add a row's name, or a remark."""
    if not any(row.values()):
        return
    if not (
        row["dataset"] and re.fullmatch("[0-9]{1,18}", row["layer"]) and re.fullmatch("[0-9]{1,18}", row["feature"])
    ):
        found.remarks.append(f"{where} is left out: it needs a dataset, and whole numbers as layer and feature")
        return
    key = row["dataset"], int(row["layer"]), int(row["feature"])
    name = visible(" ".join(row["name"].split()))
    if name.startswith("'") and name[1:2] in FORMULA:
        name = name[1:]
    if key in found.names:
        found.remarks.append(f"{where} replaces the name {found.names.pop(key)!r} of the same feature")
    if name:
        found.names[key] = name[:MOST_LETTERS]
