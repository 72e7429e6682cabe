"""The sources of the three studies, read as they are handed out; registered in `fgg.data.sources`.

Each reads ``settings["path"]``, or else what its download has put below data/downloads.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from fgg.data.locations import CONTENTS, DOWNLOADS
from fgg.data.sources import SPLITS, SUFFIXES, Record, Source, source
from fgg.errors import FggError

LABELS = "image-labels.csv"
COLUMNS = ("Video file", "Organ", "Finding", "Classification")
LANDMARKS = "anatomical-landmarks"
# In the order of the classifier's outputs: as SSL4GIE lists the folders, the lower tract before the upper.
FINDINGS = ("cecum", "ileum", "retroflex-rectum", "pylorus", "retroflex-stomach", "z-line")
SPLIT_SEED, SPLIT_SHARE = 42, 0.1
FOLDERS = {"train": "Train", "val": "Val", "test": "Test"}
LUNGS = ("COVID-19", "Non-COVID", "Normal")
SHARDS = "*.parquet"


@source("hyperkvasir")
def hyperkvasir(settings: Mapping[str, Any]) -> Source:
    """The six anatomical landmarks of HyperKvasir's labelled images, split as SSL4GIE does.

    The split is of the rows of image-labels.csv that are landmarks, in the file's order, before any image is opened:
    an image that is missing or unreadable does not move the others.

    Raises:
        FggError: no image-labels.csv, other columns, no landmarks, an id twice, or two files for one id.
    """
    root = _root("hyperkvasir", settings)
    table = _one(root, LABELS)
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if [name.strip() for name in reader.fieldnames or ()] != list(COLUMNS):
            raise FggError(f"{table} has the columns {reader.fieldnames}, expected {list(COLUMNS)}")
        rows = [row for row in reader if row["Classification"] == LANDMARKS and row["Finding"] in FINDINGS]
    if len(rows) < len(FINDINGS):
        raise FggError(f"{table} has {len(rows)} rows with an anatomical landmark; is it HyperKvasir's?")
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
    return Source(records, classes=list(FINDINGS), **_facts(root))


def split_names(count: int) -> list[str]:
    """For each of ``count`` rows its split: a tenth test, a tenth val, drawn by scikit-learn with a fixed seed."""
    from sklearn.model_selection import train_test_split

    size = round(SPLIT_SHARE * count)
    rest, test = train_test_split(np.arange(count), test_size=size, random_state=SPLIT_SEED)
    _, val = train_test_split(rest, test_size=size, random_state=SPLIT_SEED)
    splits = np.full(count, "train", dtype=object)
    splits[test], splits[val] = "test", "val"
    return splits.tolist()


@source("covidquex")
def covidquex(settings: Mapping[str, Any]) -> Source:
    """COVID-QU-Ex: {Train,Val,Test}/{COVID-19,Non-COVID,Normal}/images/*, masks left aside.

    Raises:
        FggError: no such folders, or one without images.
    """
    root = _root("covidquex", settings)
    base = _one(root, FOLDERS["train"]).parent
    records: list[Record] = []
    skipped: list[dict[str, Any]] = []
    for split, folder in FOLDERS.items():
        for label in LUNGS:
            place = base / folder / label / "images"
            if not place.is_dir():
                raise FggError(f"{place} does not exist; expected are {', '.join(FOLDERS.values())} with {LUNGS}")
            for path in sorted(file for file in place.iterdir() if not file.name.startswith(".")):
                name = path.relative_to(base).as_posix()
                if path.suffix.lower() in SUFFIXES:
                    image_id = f"{split}/{label}/{path.stem}"
                    records.append(Record(image_id, name, label, split, path))
                else:
                    skipped.append({"path": name, "reason": "not an image file"})
    return Source(records, skipped, classes=list(LUNGS), **_facts(root))


@source("imagenet")
def imagenet(settings: Mapping[str, Any]) -> Source:
    """ImageNet-1k as Parquet shards with the columns image and label, such as the hub's.

    Images without a label (the test split) are set aside. Shards named train-*, validation-* and test-* that have
    labels are the splits; where one of them is lacking, validation-* is split by ``fractions``.
    An image's id is its shard and row, so that images are read in the shards' order, a row group at a time.

    Raises:
        FggError: no shards, a damaged one, no names of the classes, or labels that have none.
    """
    root = _root("imagenet", settings)
    shards = sorted(file for file in root.rglob(SHARDS) if not file.name.startswith("."))
    if not shards:
        raise FggError(f"{root} holds no {SHARDS}; download them, or set `path` to their folder")
    classes: list[str] = []
    records: list[Record] = []
    skipped: list[dict[str, Any]] = []
    for shard in shards:
        name = shard.relative_to(root).as_posix()
        labels, paths, own = _shard(shard)
        classes = classes or own
        kind = _shard_split(shard.name)
        unlabelled = [row for row, label in enumerate(labels) if label is None or label < 0]
        if len(unlabelled) == len(labels):
            skipped.append(
                {"path": name, "reason": f"all its {len(labels)} images have no label", "images": len(labels)}
            )
            continue
        skipped += [{"path": f"{name}, row {row}", "reason": "no label"} for row in unlabelled]
        stem = shard.stem.split("-of-")[0]
        for row, (label, path) in enumerate(zip(labels, paths, strict=True)):
            if label is None or label < 0:
                continue
            if label >= len(classes):
                known = f"{len(classes)} classes are known" if classes else "no names of classes are known"
                raise FggError(f"{shard}: row {row} has the label {label}, but {known}; fetch README.md beside it")
            inner = f"{name}/{path or f'row {row}'}"
            records.append(Record(f"{stem}/{row:05}", inner, classes[label], kind, shard, row))
    kinds = {record.split for record in records}
    if kinds != set(SPLITS):
        if kinds > {"train"}:
            unused = sorted({record.path.rsplit("/", 1)[0] for record in records if record.split == "train"})
            skipped += [{"path": shard, "reason": "of the training split; the others are used"} for shard in unused]
            records = [record for record in records if record.split != "train"]
        records = [dataclasses.replace(record, split=None) for record in records]
    return Source(records, skipped, classes=classes, **_facts(root))


def _shard(shard: Path) -> tuple[list[int | None], list[str | None], list[str]]:
    """Labels, the images' own names, and the classes' names of a shard; no image is read."""
    try:
        with pq.ParquetFile(shard) as file:
            schema = file.schema_arrow
            if "image" not in schema.names or "label" not in schema.names:
                raise FggError(f"{shard} has the columns {schema.names}, expected image and label")
            columns = file.read(columns=["image.path", "label"]).to_pydict()
    except (pa.ArrowException, OSError) as error:
        raise FggError(f"{shard} cannot be read ({error}); delete its folder and run the same command again") from None
    paths = [(image or {}).get("path") for image in columns["image"]]
    return columns["label"], paths, _class_names(schema, shard)


def _class_names(schema: pa.Schema, shard: Path) -> list[str]:
    """Of the label feature: in the shard's metadata, or else in the repository's README.md."""
    note = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = note.get("info", {}).get("features", {}).get("label", {}).get("names")
    if names:
        return list(names)
    for folder in shard.parents[:2]:
        if (folder / "README.md").is_file():
            return _readme_names((folder / "README.md").read_text(encoding="utf-8"))
    return []


def _readme_names(text: str) -> list[str]:
    parts = text.split("---\n")
    head = yaml.safe_load(parts[1]) if len(parts) > 2 else {}
    info = head.get("dataset_info") or {}
    for each in info if isinstance(info, list) else [info]:
        for feature in each.get("features", []):
            names = (
                (feature.get("dtype") or {}).get("class_label", {}).get("names") if feature["name"] == "label" else None
            )
            if names:
                return [names[key] for key in sorted(names, key=int)]
    return []


def _shard_split(name: str) -> str | None:
    prefix = name.split("-")[0].split(".")[0]
    return {"train": "train", "validation": "val", "val": "val", "test": "test"}.get(prefix)


def _root(name: str, settings: Mapping[str, Any]) -> Path:
    root = Path(settings["path"]).expanduser() if settings.get("path") else Path(DOWNLOADS, name)
    if not root.is_dir():
        raise FggError(f"the folder {root} does not exist; leave `path` out to have {name} downloaded")
    return root


def _one(root: Path, name: str) -> Path:
    """The file or folder of that name below a folder; the one closest to it."""
    found = sorted((path for path in root.rglob(name)), key=lambda path: (len(path.parts), path))
    if not found:
        raise FggError(f"{root} holds no {name}; it is not laid out as it was handed out")
    return found[0]


def _facts(root: Path) -> dict[str, Any]:
    """What the download has noted."""
    place = root / CONTENTS
    if not place.is_file():
        return {}
    note = json.loads(place.read_text(encoding="utf-8"))
    return {
        "version": note["revision"] or note["address"],
        "citation": note["citation"],
        "licence": note["licence"],
        "checksum": note["tree"],
    }
