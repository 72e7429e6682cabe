"""What the Snakefile asks about the configured study. Imports no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from fgg import degeneracy
from fgg.experiments import Config


def known_layers(folder: Path, depth: int | None) -> dict[int, str]:
    """Layer -> degeneracy: measured where the model exists already, else expected from the depth, else nothing."""
    try:
        return degeneracy.measured(json.loads((folder / "model.json").read_text(encoding="utf-8"))["layers"])
    except (OSError, ValueError, LookupError, TypeError):
        return degeneracy.expected(depth) if depth else {}


def warn_degenerate(dataset: str, grid: Mapping[str, Config], layers: Mapping[int, str]) -> None:
    """Tell on standard error, before any job runs, which experiments mean nothing."""
    for name, settings in grid.items():
        remark = degeneracy.note(settings, layers)
        if remark:
            print(f"warning: {dataset}: {name}: {remark}", file=sys.stderr)
