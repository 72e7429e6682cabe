"""HyperKvasir's anatomical landmarks (Borgli et al. 2020), as distributed."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fgg.data.sources.downloaded import closest, facts_of, root_of
from fgg.data.sources.records import SUFFIXES, Record, Source
from fgg.data.sources.registry import source
from fgg.errors import FggError

LABELS = "image-labels.csv"
COLUMNS = ("Video file", "Organ", "Finding", "Classification")
LANDMARKS = "anatomical-landmarks"
# In the order of the classifier's outputs: as SSL4GIE lists the folders, the lower tract before the upper.
FINDINGS = ("cecum", "ileum", "retroflex-rectum", "pylorus", "retroflex-stomach", "z-line")
SPLIT_SEED, SPLIT_SHARE = 42, 0.1


@source(name="hyperkvasir", downloaded=True)
def hyperkvasir(settings: Mapping[str, Any]) -> Source:
    """The six anatomical landmarks of HyperKvasir's labelled images, split as in SSL4GIE.

    The rows of image-labels.csv that are landmarks are split in the file's order, before any image is opened, so that
    a missing or unreadable image does not move the others.

    Raises:
        FggError: there is no image-labels.csv, its columns are wrong, it has no landmarks, or an id is repeated or
            has two files.
    """
    root = root_of("hyperkvasir", settings)
    table = closest(root, LABELS)
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if [name.strip() for name in reader.fieldnames or ()] != list(COLUMNS):
            raise FggError(f"{table} has the columns {reader.fieldnames}, expected {list(COLUMNS)}")
        rows = [row for row in reader if row["Classification"] == LANDMARKS and row["Finding"] in FINDINGS]
    if len(rows) < len(FINDINGS):
        raise FggError(f"{table} has {len(rows)} rows with an anatomical landmark; check that it is HyperKvasir's")
    files: dict[str, Path] = {}
    for path in sorted(table.parent.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            if path.stem in files:
                raise FggError(f"{table.parent} has two files for {path.stem}: {files[path.stem]} and {path}")
            files[path.stem] = path
    records = []
    for row, split in zip(rows, split_names(len(rows)), strict=True):
        name = row["Video file"].strip()
        image = files.get(name, table.parent / f"{name}.jpg")  # a missing one counts as unreadable
        records.append(Record(name, image.relative_to(table.parent).as_posix(), row["Finding"], split, image))
    return Source(records, classes=list(FINDINGS), **facts_of(root))


def split_names(count: int) -> list[str]:
    """The split of each of ``count`` rows: a tenth test, a tenth val, drawn by scikit-learn with a fixed seed."""
    from sklearn.model_selection import train_test_split

    size = round(SPLIT_SHARE * count)
    rest, test = train_test_split(np.arange(count), test_size=size, random_state=SPLIT_SEED)
    _, val = train_test_split(rest, test_size=size, random_state=SPLIT_SEED)
    splits = np.full(count, "train", dtype=object)
    splits[test], splits[val] = "test", "val"
    return splits.tolist()
