"""Prepare a dataset: check every image, split, and write DIR/{train,val,test}.parquet and DIR/dataset.json.

Run as ``python -m fgg.data.prepare --dataset NAME --settings JSON --output DIR``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from fgg import tables
from fgg.data.images import decode_unnamed
from fgg.data.masks import count_masks, stored, with_folder
from fgg.data.sample import sample_ids
from fgg.data.sources.records import SPLITS, Record
from fgg.data.sources.registry import open_source
from fgg.data.stratified import apportion, keyed_order
from fgg.errors import FggError
from fgg.jobs.command import command, json_object
from fgg.progress import progress

SETTINGS = ("source", "path", "fractions", "max_skipped", "seed")
OPTIONAL = (
    *("sample", "split"),  # the sample that is explained, and the split that it belongs to
    *("masks", "planted"),  # where the masks are, and what is planted
)
FEATURES = datasets.Features(
    {
        "image_id": datasets.Value("string"),
        "image": datasets.Image(),
        "label": datasets.Value("int64"),
        "label_name": datasets.Value("string"),
    }
)
# Small row groups, so that a subset, or a batch, is read without the rest of the file.
GROUP_ROWS, GROUP_BYTES = 64, 32 * 2**20


@dataclass(frozen=True)
class Checked:
    """A readable image: its record, and the digest of the bytes that were checked."""

    record: Record
    digest: str


def prepare(dataset: str, settings: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """Write the four files; returns the content of dataset.json. Equal images and settings give equal bytes.

    Raises:
        FggError: the settings or the source are invalid, too many images are unreadable, or a class
            has no image in a split.
    """
    _check_settings(settings)
    source = open_source(settings)
    if settings.get("masks") and "mask" not in source.columns:
        source = with_folder(source, Path(settings["masks"]).expanduser())
    checked, unreadable = _check_images(source.records)
    _check_share(dataset, unreadable, len(checked), settings["max_skipped"])
    classes = source.classes or sorted({record.label_name for record in source.records})
    explained = settings.get("split", "test")
    sample = sample_ids(settings.get("sample"), source.records, classes)
    splits = _split(checked, classes, settings, source.classes is not None, {explained: sample})
    _check_sample(splits[explained], sample, explained)
    _tell_shared(splits)
    masks = count_masks([image.record for image in checked], source.unused_masks) if "mask" in source.columns else None
    for split, images in splits.items():
        own = sample if split == explained else []
        _write(output / f"{split}.parquet", images, classes, {"dataset": dataset, **settings}, own, source.columns)
    skipped = sorted([*source.skipped, *unreadable], key=lambda entry: entry["path"])
    record = {
        "dataset": dataset,
        "source": settings["source"],
        "version": source.version,
        "licence": source.licence,
        "citation": source.citation,
        "source_checksum": source.checksum,
        "checksum": _checksum(checked, classes),
        "classes": classes,
        "counts": {split: _counts(images, classes) for split, images in splits.items()},
        "n_read": len(checked),
        "n_unreadable": len(unreadable),
        "n_skipped": sum(int(entry.get("images", 1)) for entry in skipped),
        "skipped": skipped,
        **({"masks": masks} if masks else {}),
        "settings": dict(settings),
    }
    tables.write_json(output / "dataset.json", record, {"dataset": dataset, **settings})
    return record


def _check_settings(settings: Mapping[str, Any]) -> None:
    if not isinstance(settings, dict):
        raise FggError(f"settings: {settings!r} is not an object with {', '.join(SETTINGS)}")
    missing = [key for key in SETTINGS if key not in settings]
    unknown = [key for key in settings if key not in (*SETTINGS, *OPTIONAL)]
    if missing or unknown:
        raise FggError(f"settings: missing {missing}, unknown {unknown}; the keys are: {', '.join(SETTINGS)}")
    fractions = settings["fractions"]
    if sorted(fractions) != sorted(SPLITS) or min(fractions.values()) <= 0 or abs(sum(fractions.values()) - 1) > 1e-9:
        raise FggError(f"fractions: {fractions}; give train, val and test shares above 0 that add up to 1")


def _check_images(records: list[Record]) -> tuple[list[Checked], list[dict[str, str]]]:
    """Decode every image once; returns the readable ones, sorted by id, and (path, reason) of the others."""
    repeated = [name for name, n in Counter(record.image_id for record in records).items() if n > 1]
    if repeated:
        raise FggError(f"image ids must be unique, but these are not: {', '.join(repeated[:5])}; rename the files")
    checked, unreadable = [], []
    ordered = sorted(records, key=lambda record: record.image_id)
    for record in progress(ordered, len(ordered), "reading"):
        try:
            data = record.data
            decode_unnamed(data)
        except OSError as error:
            unreadable.append({"path": record.path, "reason": f"cannot be read: {error.strerror}"})
        except FggError as error:
            unreadable.append({"path": record.path, "reason": str(error)})
        else:
            checked.append(Checked(record, hashlib.sha256(data).hexdigest()))
    return checked, unreadable


def _check_share(dataset: str, unreadable: list[dict[str, str]], n_read: int, allowed: float) -> None:
    """Raise FggError if more than the allowed share of the images is unreadable."""
    total = n_read + len(unreadable)
    if len(unreadable) <= allowed * total:
        return
    first = "\n".join(f"  {entry['path']}: {entry['reason']}" for entry in unreadable[:5])
    more = f"\n  and {len(unreadable) - 5} more" if len(unreadable) > 5 else ""
    share = len(unreadable) / total
    raise FggError(
        f"{len(unreadable)} of {total} images of {dataset} ({share:.2%}) are unreadable, but only {allowed:.2%} "
        f"are allowed:\n{first}{more}\n"
        f"fix or remove them, or raise `max_skipped` of the dataset to {share:.4f} or more to skip them"
    )


def _check_sample(images: list[Checked], sample: list[str], split: str) -> None:
    """Raise FggError if images of the sample are unreadable, or belong to another split of the source's own."""
    there = {image.record.image_id for image in images}
    if missing := [image_id for image_id in sample if image_id not in there]:
        raise FggError(
            f"sample: {len(missing)} of its {len(sample)} images are not in the split {split}, because they are unreadable "
            f"or in another of the source's splits: {', '.join(missing[:5])}; take them out of the sample, or set `split`"
        )


def _tell_shared(splits: Mapping[str, list[Checked]]) -> None:
    """Print how many images of val and test are also in train, under other names: what is measured on them is too good."""
    trained = {image.digest for image in splits["train"]}
    counts = {name: sum(image.digest in trained for image in own) for name, own in splits.items() if name != "train"}
    if any(counts.values()):
        told = " and ".join(
            f"{count} {'images ' if place == 0 else ''}of {name}" for place, (name, count) in enumerate(counts.items())
        )
        print(f"note: {told} are, byte for byte, images of train: measures on them are too good", file=sys.stderr)


def _split(
    checked: list[Checked],
    classes: list[str],
    settings: Mapping[str, Any],
    fixed: bool,
    reserved: Mapping[str, list[str]],
) -> dict[str, list[Checked]]:
    """The source's own splits, or a stratified split by the fractions; each sorted by image_id.

    Within a class, (seed, image_id) determines the order, so neither the folder's order nor the
    other classes matter. With ``fixed`` classes, a split may lack a class: the model's outputs do not change. Images
    that are reserved for a split go there: a sample to the explained one, so that nothing is trained on it.
    """
    splits: dict[str, list[Checked]] = {split: [] for split in SPLITS}
    if all(image.record.split for image in checked):
        for image in checked:
            splits[str(image.record.split)].append(image)
    else:
        weights = [settings["fractions"][split] for split in SPLITS]
        place = {image_id: split for split, own in reserved.items() for image_id in own}
        free = []
        for image in checked:
            splits[place[image.record.image_id]].append(image) if image.record.image_id in place else free.append(image)
        for label in classes:
            images = {image.record.image_id: image for image in free if image.record.label_name == label}
            order = iter(keyed_order(images, settings["seed"], "split"))
            for split, size in zip(SPLITS, apportion(len(images), weights), strict=True):
                splits[split] += [images[next(order)] for _ in range(size)]
    for split, own in splits.items():
        empty = [label for label, n in _counts(own, classes).items() if n == 0]
        if empty and (not fixed or len(empty) == len(classes)):
            raise FggError(
                f"split {split} of {settings['path'] or settings['source']} has no readable image of class "
                f"{', '.join(empty[:5])}; every class needs at least one in each of train, val and test: "
                "add images, or remove the class"
            )
    return {split: sorted(own, key=lambda image: image.record.image_id) for split, own in splits.items()}


def _counts(images: list[Checked], classes: list[str]) -> dict[str, int]:
    counts = Counter(image.record.label_name for image in images)
    return {label: counts[label] for label in classes}


def _checksum(checked: list[Checked], classes: list[str]) -> str:
    """SHA-256 over (image_id, label, SHA-256 of the bytes) of all images, sorted by image_id."""
    digest = hashlib.sha256()
    for image in checked:
        row = [image.record.image_id, classes.index(image.record.label_name), image.digest]
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def _write(
    path: Path,
    images: list[Checked],
    classes: list[str],
    settings: Mapping[str, Any],
    sample: list[str],
    columns: tuple[str, ...],
) -> None:
    """Write a split, a row group at a time, so that memory does not grow with the dataset."""
    facts = {"schema": tables.SCHEMA_VERSION, "settings": settings, "classes": classes}
    note = json.dumps(facts | ({"sample": sample} if sample else {}), sort_keys=True)
    extra = {name: datasets.Value("binary") for name in columns}
    schema = datasets.Features({**FEATURES, **extra}).arrow_schema
    schema = schema.with_metadata({**schema.metadata, b"fgg": note.encode()})
    with (
        tables.atomic(path) as temporary,
        pq.ParquetWriter(
            temporary, schema, compression="zstd", use_dictionary=["label_name"], write_page_checksum=True
        ) as writer,
    ):
        for rows in _groups(images, classes, columns):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _groups(images: list[Checked], classes: list[str], columns: tuple[str, ...]) -> Iterator[list[dict[str, Any]]]:
    """The rows in lists of at most GROUP_ROWS rows and, except for the last row, GROUP_BYTES bytes."""
    rows: list[dict[str, Any]] = []
    size = 0
    for image in images:
        record, data = image.record, image.record.data
        if hashlib.sha256(data).hexdigest() != image.digest:
            raise FggError(f"{record.file} changed while the dataset was being prepared; run the same command again")
        label = {"label": classes.index(record.label_name), "label_name": record.label_name}
        extra = stored(record, data, columns)
        rows.append({"image_id": record.image_id, "image": {"bytes": data, "path": record.path}, **label, **extra})
        size += len(data) + sum(len(own) for own in extra.values() if own)
        if len(rows) == GROUP_ROWS or size >= GROUP_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


@command
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, prepare the dataset, and print a one-line summary."""
    parser = argparse.ArgumentParser(prog="python -m fgg.data.prepare", description=__doc__)
    parser.add_argument("--dataset", required=True, help="its name in the configuration")
    parser.add_argument("--settings", required=True, type=json_object, help=f"JSON with {', '.join(SETTINGS)}")
    parser.add_argument("--output", required=True, type=Path, help="folder for the four files")
    arguments = parser.parse_args(argv)
    record = prepare(arguments.dataset, arguments.settings, arguments.output)
    sizes = ", ".join(f"{split} {sum(counts.values())}" for split, counts in record["counts"].items())
    print(f"{arguments.dataset}: {record['n_read']} images ({sizes}), {record['n_skipped']} files skipped")


if __name__ == "__main__":
    sys.exit(main())
