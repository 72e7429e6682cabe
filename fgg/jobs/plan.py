"""The planned jobs of a run, so that one job can compute pieces for others. Does not import torch.

The Snakefile records the command lines of the jobs that could share work; `planned` reads them. The plan only decides
which job computes what: without it, every job computes its own pieces.
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
    """Record the plan of a run: stage -> the arguments of each of its jobs. The jobs will share this folder."""
    with atomic(folder / NAME) as temporary:
        temporary.write_text(json.dumps(commands), encoding="utf-8")
    os.environ[FOLDER] = str(folder.resolve())


def planned(stage: str, parse: Callable[[Sequence[str]], Job]) -> Iterator[Job]:
    """The planned jobs of a stage; none outside a run."""
    folder = os.environ.get(FOLDER)
    if folder and (Path(folder) / NAME).is_file():
        for arguments in json.loads((Path(folder) / NAME).read_text(encoding="utf-8")).get(stage, []):
            yield parse(arguments)
