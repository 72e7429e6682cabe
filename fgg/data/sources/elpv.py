"""The embedded dataset of solar cells."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fgg.data.sources.records import Record, Source
from fgg.data.sources.registry import source
from fgg.errors import FggError


@source(name="elpv")
def elpv(settings: Mapping[str, Any]) -> Source:
    """2,624 solar cells, from the files of the installed package ``elpv-dataset``.

    The files are read because its ``load_dataset`` decodes all images at once. The annotation is the
    probability of a defect and the kind of cell; from 0.5, a cell counts as defective.

    Raises:
        FggError: the package is not installed, or lacks its annotations.
    """
    spec = importlib.util.find_spec("elpv_dataset")
    labels = Path(spec.origin).parent / "data" / "labels.csv" if spec and spec.origin else None
    if labels is None or not labels.is_file():
        place = labels or "the package elpv_dataset"
        raise FggError(f"{place} is missing; reinstall it: pip install --force-reinstall elpv-dataset")
    text = labels.read_bytes()
    records = []
    for line in text.decode().splitlines():
        path, probability, kind = line.split()
        state = "defective" if float(probability) >= 0.5 else "functional"
        records.append(Record(Path(path).stem, path, f"{kind}-{state}", None, labels.parent / path))
    return Source(
        records,
        version=importlib.metadata.version("elpv-dataset"),
        citation=(
            "Buerhop-Lutz et al. 2018, A Benchmark for Visual Identification of Defective Solar Cells "
            "in Electroluminescence Imagery"
        ),
        licence="CC BY-NC-SA 4.0",
        checksum=hashlib.sha256(text).hexdigest(),
    )
