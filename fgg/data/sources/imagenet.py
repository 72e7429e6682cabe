"""ImageNet-1k in Parquet shards, as on the Hugging Face hub."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from fgg.data.sources.downloaded import facts_of, root_of
from fgg.data.sources.records import SPLITS, Record, Source
from fgg.data.sources.registry import source
from fgg.errors import FggError

SHARDS = "*.parquet"


@source(name="imagenet", downloaded=True)
def imagenet(settings: Mapping[str, Any]) -> Source:
    """ImageNet-1k as Parquet shards with the columns image and label, such as the hub's.

    Images without a label (the test split) are skipped. Shards named train-*, validation-* and test-* that have
    labels are the splits; if one of them is missing, validation-* is split by ``fractions``.
    An image's id is its shard and row, so that images are read in the shards' order, a row group at a time.

    Raises:
        FggError: there are no shards, a shard is damaged, there are no class names, or a label has none.
    """
    root = root_of("imagenet", settings)
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
                {"path": name, "reason": f"none of its {len(labels)} images has a label", "images": len(labels)}
            )
            continue
        skipped += [{"path": f"{name}, row {row}", "reason": "no label"} for row in unlabelled]
        stem = shard.stem.split("-of-")[0]
        for row, (label, path) in enumerate(zip(labels, paths, strict=True)):
            if label is None or label < 0:
                continue
            if label >= len(classes):
                known = f"{len(classes)} classes are known" if classes else "no class names are known"
                raise FggError(
                    f"{shard}: row {row} has the label {label}, but {known}; fetch README.md into its folder"
                )
            inner = f"{name}/{path or f'row {row}'}"
            records.append(Record(f"{stem}/{row:05}", inner, classes[label], kind, shard, row))
    kinds = {record.split for record in records}
    if kinds != set(SPLITS):
        if kinds > {"train"}:
            unused = sorted({record.path.rsplit("/", 1)[0] for record in records if record.split == "train"})
            skipped += [
                {"path": shard, "reason": "part of the training split; only the other splits are used"}
                for shard in unused
            ]
            records = [record for record in records if record.split != "train"]
        records = [dataclasses.replace(record, split=None) for record in records]
    return Source(records, skipped, classes=classes, **facts_of(root))


def _shard(shard: Path) -> tuple[list[int | None], list[str | None], list[str]]:
    """Labels, image names and class names of a shard; no image is read."""
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
    """The label feature's class names, from the shard's metadata, or else from the repository's README.md."""
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
