"""ImageNet-1k in Parquet shards, as on the Hugging Face hub."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fgg.data.claimed_sizes import check_parquet
from fgg.data.settings_files import parse_settings
from fgg.data.sources.downloaded import facts_of, root_of
from fgg.data.sources.records import SPLITS, Record, Source
from fgg.data.sources.registry import source
from fgg.errors import FggError
from fgg.visible import has_controls

SHARDS = "*.parquet"
MOST_ROWS, ROWS, MOST_LETTERS = 2_000_000, 1024, 4096  # rows of a shard, rows read at once, letters of a name


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
            _check_columns(shard, schema)
            check_parquet(file, ("image", "label"), MOST_ROWS, MOST_ROWS)
            labels = file.read(columns=["label"])["label"].to_pylist()
        # A long name that is stored once for many rows is held once.
        with pq.ParquetFile(shard, read_dictionary=["image.path"]) as file:
            paths = [path for batch in file.iter_batches(ROWS, columns=["image.path"]) for path in _paths(batch)]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise FggError(f"{shard} cannot be read ({error}); delete its folder and run the same command again") from None
    return labels, paths, _class_names(schema, shard)


def _check_columns(shard: Path, schema: pa.Schema) -> None:
    if "image" not in schema.names or "label" not in schema.names:
        raise FggError(f"{shard} has the columns {schema.names}, expected image and label")
    image, label = schema.field("image").type, schema.field("label").type
    parts = {part.name for part in image} if pa.types.is_struct(image) else set()
    if not parts >= {"bytes", "path"} or not pa.types.is_integer(label):
        raise FggError(f"{shard} has images {image} and labels {label}, expected bytes and path, and whole numbers")


def _paths(batch: pa.RecordBatch) -> list[str | None]:
    """The names of images; of one that is too long, none."""
    own = batch.column("image")
    found = own.field("path")
    values = [None if name is None or len(name) > MOST_LETTERS else name for name in found.dictionary.to_pylist()]
    places = zip(found.indices.to_pylist(), own.is_valid().to_pylist(), strict=True)
    return [values[place] if valid and place is not None else None for place, valid in places]


def _class_names(schema: pa.Schema, shard: Path) -> list[str]:
    """The label feature's class names, from the shard's metadata, or else from the repository's README.md."""
    place, names = shard, []
    try:
        note = parse_settings((schema.metadata or {}).get(b"huggingface", b"{}").decode(), "JSON")
        names = list(note.get("info", {}).get("features", {}).get("label", {}).get("names") or [])
        for folder in shard.parents[:2]:
            if not names and (folder / "README.md").is_file():
                place = folder / "README.md"
                names = _readme_names(place.read_text(encoding="utf-8"))
                break
        if not all(isinstance(name, str) and name for name in names):
            raise ValueError("a class has no name")
        if odd := [name for name in names if has_controls(name)]:
            raise ValueError(f"the name {odd[0]!r} holds control characters")
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"two classes are named {twice[0]!r}")
    except (ValueError, AttributeError, LookupError, TypeError) as error:
        raise FggError(
            f"{place}: the names of the classes cannot be read ({' '.join(str(error).split())[:200]}); fetch the dataset again, or correct them"
        ) from None
    return names


def _readme_names(text: str) -> list[str]:
    parts = text.split("---\n")
    head = parse_settings(parts[1], "YAML") if len(parts) > 2 else {}
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
