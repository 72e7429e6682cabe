"""COVID-QU-Ex (Tahir et al. 2021), as distributed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fgg.data.masks import with_masks
from fgg.data.sources.downloaded import closest, facts_of, root_of
from fgg.data.sources.records import SUFFIXES, Record, Source
from fgg.data.sources.registry import source
from fgg.errors import FggError

FOLDERS = {"train": "Train", "val": "Val", "test": "Test"}
LUNGS = ("COVID-19", "Non-COVID", "Normal")
MASKS = {"lung": "lung masks", "infection": "infection masks"}  # the setting `masks` -> the folder beside images


@source(name="covidquex", downloaded=True, masks=("lung", "infection"))
def covidquex(settings: Mapping[str, Any]) -> Source:
    """COVID-QU-Ex: {Train,Val,Test}/{COVID-19,Non-COVID,Normal}/images/*.

    With ``masks`` lung or infection, the masks are the files of the same names in the folder ``lung masks`` or
    ``infection masks`` beside ``images``, for those splits and classes that have the folder.

    Raises:
        FggError: a class folder does not exist, or has no images; or no class has a folder of the wanted masks.
    """
    root = root_of("covidquex", settings)
    base = closest(root, FOLDERS["train"]).parent
    records: list[Record] = []
    skipped: list[dict[str, Any]] = []
    masks: dict[str, Path] = {}
    folder_of_masks = MASKS.get(str(settings.get("masks")))
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
            if folder_of_masks:
                files = sorted((base / folder / label / folder_of_masks).glob("[!.]*"))
                masks |= {f"{split}/{label}/{path.stem}": path for path in files if path.suffix.lower() in SUFFIXES}
    own = Source(records, skipped, classes=list(LUNGS), **facts_of(root))
    if folder_of_masks and not masks:
        raise FggError(
            f"{base} has no folder {folder_of_masks!r} with masks beside images; set `path` to the part of the archive "
            "that has it"
        )
    return with_masks(own, masks, str(base)) if folder_of_masks else own
