"""The user's own names of features: a small table beside ``results``, which fgg reads and never writes.

``feature_names.csv`` has the columns dataset, layer, feature and name. Rows that fgg cannot use are told, and the others
are used. Does not import torch.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fgg.errors import FggError

NAMES_FILE = "feature_names.csv"
COLUMNS = ("dataset", "layer", "feature", "name")
FORMULA = ("=", "+", "-", "@")  # a spreadsheet computes a cell that starts so
MOST_LETTERS = 200


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
    spreadsheets from computing the cell, is not part of the name. A row with an empty name gives none.

    Raises:
        FggError: the file is not CSV in UTF-8, or lacks a column.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return FeatureNames()
    except UnicodeDecodeError as error:
        raise FggError(f"{path} is not text in UTF-8 ({error.reason}); save it as CSV in UTF-8") from None
    if "\0" in text:
        raise FggError(f"{path} is no text; save it as CSV in UTF-8")
    if not text.strip():
        return FeatureNames()
    first = text.lstrip().splitlines()[0]
    rows = csv.DictReader(io.StringIO(text.lstrip()), delimiter=";" if ";" in first and "," not in first else ",")
    heads = [str(name).strip().lower() for name in rows.fieldnames or ()]
    if missing := [name for name in COLUMNS if name not in heads]:
        raise FggError(f"{path} lacks the column {', '.join(missing)}; its first line must be {','.join(COLUMNS)}")
    rows.fieldnames = heads
    found = FeatureNames()
    try:
        for row in rows:
            own = {name: (row[name] or "").strip() for name in COLUMNS}
            _add(found, own, f"{Path(path).name}: line {rows.line_num}")
    except csv.Error as error:
        raise FggError(f"{path} cannot be read as CSV ({error}); save it as CSV in UTF-8") from None
    return found


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
    name = " ".join(row["name"].split())
    if name.startswith("'") and name[1:2] in FORMULA:
        name = name[1:]
    if key in found.names:
        found.remarks.append(f"{where} replaces the name {found.names.pop(key)!r} of the same feature")
    if name:
        found.names[key] = name[:MOST_LETTERS]
