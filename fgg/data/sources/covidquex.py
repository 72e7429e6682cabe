"""COVID-QU-Ex (Tahir et al. 2021), as distributed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fgg.data.sources.downloaded import closest, facts_of, root_of
from fgg.data.sources.records import SUFFIXES, Record, Source
from fgg.data.sources.registry import source
from fgg.errors import FggError

FOLDERS = {"train": "Train", "val": "Val", "test": "Test"}
LUNGS = ("COVID-19", "Non-COVID", "Normal")


@source(name="covidquex", downloaded=True)
def covidquex(settings: Mapping[str, Any]) -> Source:
    """COVID-QU-Ex: {Train,Val,Test}/{COVID-19,Non-COVID,Normal}/images/*; masks are ignored.

    Raises:
        FggError: a class folder does not exist, or has no images.
    """
    root = root_of("covidquex", settings)
    base = closest(root, FOLDERS["train"]).parent
    records: list[Record] = []
    skipped: list[dict[str, Any]] = []
    for split, folder in FOLDERS.items():
        for label in LUNGS:
            place = base / folder / label / "images"
            if not place.is_dir():
                raise FggError(f"{place} does not exist; expected {', '.join(FOLDERS.values())} with {LUNGS}")
            for path in sorted(file for file in place.iterdir() if not file.name.startswith(".")):
                name = path.relative_to(base).as_posix()
                if path.suffix.lower() in SUFFIXES:
                    image_id = f"{split}/{label}/{path.stem}"
                    records.append(Record(image_id, name, label, split, path))
                else:
                    skipped.append({"path": name, "reason": "not an image file"})
    return Source(records, skipped, classes=list(LUNGS), **facts_of(root))
