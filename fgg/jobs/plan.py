"""The jobs of a run as it was planned, so that one job can compute pieces for others. Imports no torch.

The Snakefile notes the command lines of the jobs that could share work; `planned` reads them. Nothing depends on the plan but
who computes what: without it every job computes its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from fgg.jobs.shared_work import FOLDER
from fgg.tables import atomic

NAME = "plan.json"
Job = TypeVar("Job")


def note_plan(folder: Path, commands: Mapping[str, Sequence[Sequence[str]]]) -> None:
    """Note what a run plans: stage -> the arguments of each of its jobs. The folder becomes the one that jobs share."""
    with atomic(folder / NAME) as temporary:
        temporary.write_text(json.dumps(commands), encoding="utf-8")
    os.environ[FOLDER] = str(folder.resolve())


def planned(stage: str, parse: Callable[[Sequence[str]], Job]) -> Iterator[Job]:
    """The jobs of a stage; none outside a run."""
    folder = os.environ.get(FOLDER)
    if folder and (Path(folder) / NAME).is_file():
        for arguments in json.loads((Path(folder) / NAME).read_text(encoding="utf-8")).get(stage, []):
            yield parse(arguments)
