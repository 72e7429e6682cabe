"""Which images are explained, if a configuration lists them or takes those of the research code. Does not import torch."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from fgg.data.sources.records import Record
from fgg.errors import FggError

RESEARCH_CODE = "research-code"
RESEARCH_SEED, RESEARCH_TOTAL, RESEARCH_COUNT = 123, 50_000, 500


def sample_ids(sample: str | Mapping[str, Any] | None, records: Sequence[Record], classes: Sequence[str]) -> list[str]:
    """The ids of the images that a setting ``sample`` means, sorted; none for None.

    ``{"ids": FILE}`` is a text file with an image_id per line; empty lines, lines that begin with #, and a first line
    ``image_id`` do not count. ``research-code`` is ``random.seed(123); random.sample(range(50000), 500)`` of ImageNet's
    validation images in the order of their class folders and, within them, of their file names.

    Raises:
        FggError: the file cannot be read, is empty or repeats an id, an id is unknown, or the dataset does not have 50,000
            images.
    """
    if sample is None:
        return []
    if sample == RESEARCH_CODE:
        return sorted(records[place].image_id for place in _research_places(records, classes))
    assert isinstance(sample, Mapping)
    wanted = listed(Path(sample["ids"]))
    known = {record.image_id for record in records}
    if unknown := [image_id for image_id in wanted if image_id not in known]:
        raise FggError(
            f"sample.ids: {len(unknown)} of the {len(wanted)} ids of {sample['ids']} are not in the dataset: "
            f"{', '.join(unknown[:5])}; its ids are like {records[0].image_id if records else '(it has no images)'}"
        )
    return sorted(wanted)


def listed(path: Path) -> list[str]:
    """The ids that a file lists. Raises FggError if it cannot be read, is empty, or repeats one."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise FggError(
            f"sample.ids: {path} cannot be read ({error}); give a text file with an image_id per line"
        ) from None
    found = [line for line in lines if line and not line.startswith("#")]
    found = found[1:] if found[:1] == ["image_id"] else found
    if not found:
        raise FggError(f"sample.ids: {path} lists no image_id; write one per line")
    if repeated := sorted(image_id for image_id, count in Counter(found).items() if count > 1):
        raise FggError(f"sample.ids: {path} lists {', '.join(repeated[:5])} more than once")
    return found


def _research_places(records: Sequence[Record], classes: Sequence[str]) -> list[int]:
    if len(records) != RESEARCH_TOTAL:
        raise FggError(
            f"sample: {RESEARCH_CODE} is defined on ImageNet's {RESEARCH_TOTAL} validation images, but this dataset has "
            f"{len(records)}; use sample: {{ids: FILE}} instead"
        )
    number = {name: place for place, name in enumerate(classes)}
    order = sorted(
        range(len(records)),
        key=lambda place: (number[records[place].label_name], PurePosixPath(records[place].path).name),
    )
    chosen = random.Random(RESEARCH_SEED).sample(range(RESEARCH_TOTAL), RESEARCH_COUNT)
    return [order[place] for place in chosen]
