"""One job of ``python -m fgg.faithfulness``: its arguments, and what its table depends on. Does not import torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgg.checksums import checksum
from fgg.jobs.command import add_arguments
from fgg.jobs.shards import WHOLE, Shard
from fgg.jobs.shared_work import Task, group_of

ABOUT = "Faithfulness of one experiment's attributions, by one metric or several."


@dataclass(frozen=True)
class Job:
    """The arguments of one job; see the command's help."""

    model: Path
    images: Path
    attributions: Path
    settings: dict[str, Any]
    output: Path
    responses: Path | None = None
    shard: Shard = WHOLE
    code: str = ""
    curves: Path | None = None

    @property
    def _files(self) -> dict[str, Path]:
        """The files that all jobs of a group read."""
        files = {
            "model": self.model / "model.safetensors",
            "model.json": self.model / "model.json",
            "images": self.images,
        }
        return files | ({"responses": self.responses} if self.responses else {})

    @property
    def group(self) -> str:
        """Equal for jobs that can share the passes of the model."""
        files = [checksum(path) for path in self._files.values()]
        return group_of("faithfulness", *files, self.settings, (self.shard.number, self.shard.count))

    @property
    def task(self) -> Task:
        """What the job makes, and what its results depend on."""
        files = {name: checksum(path) for name, path in {**self._files, "attributions": self.attributions}.items()}
        made_from = {"code": self.code, "files": files}
        outputs = {"faithfulness": self.output, **({"curves": self.curves} if self.curves else {})}
        return Task("faithfulness", outputs, self.settings, made_from)


def parse(argv: Sequence[str] | None) -> Job:
    """The job that a command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m fgg.faithfulness", description=ABOUT)
    add_arguments(parser, "model", "images", "output", "shard", "code", settings="JSON: metrics, protocol, device, …")
    parser.add_argument("--attributions", type=Path, required=True, help="relevance table of the experiment")
    parser.add_argument("--responses", type=Path, help="response table of the dataset, for metrics that need it")
    parser.add_argument("--curves", type=Path, help="table of the curves to write")
    return Job(**vars(parser.parse_args(argv)))
