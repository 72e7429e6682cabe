"""Faithfulness of one experiment's attributions, by one metric or several: ``python -m fgg.faithfulness``.

Within a run of the workflow the experiments of a data set are scored together (`fgg.jobs.shared_work`); this file imports no
torch, since most jobs then find their pieces ready.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgg.faithfulness.registry import chosen, switched_on
from fgg.jobs import shared_work
from fgg.jobs.command import add_arguments, command, started
from fgg.jobs.plan import planned
from fgg.jobs.shards import WHOLE, Shard
from fgg.jobs.shared_work import Task, checksum, group_of


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

    @property
    def _files(self) -> dict[str, Path]:
        """What jobs of a group read, all of them."""
        files = {
            "model": self.model / "model.safetensors",
            "model.json": self.model / "model.json",
            "images": self.images,
        }
        return files | ({"responses": self.responses} if self.responses else {})

    @property
    def group(self) -> str:
        """Equal for jobs that can share the model's looks at the images."""
        files = [checksum(path) for path in self._files.values()]
        return group_of("faithfulness", *files, self.settings, (self.shard.number, self.shard.count))

    @property
    def task(self) -> Task:
        """What the job makes, and what that depends on."""
        files = {name: checksum(path) for name, path in {**self._files, "attributions": self.attributions}.items()}
        made_from = {"code": self.code, "files": files}
        return Task("faithfulness", {"faithfulness": self.output}, self.settings, made_from)


@command
def main(argv: list[str] | None = None) -> None:
    """Score one experiment."""
    run(parse(argv))


def parse(argv: Sequence[str] | None) -> Job:
    """The job that a command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m fgg.faithfulness", description=__doc__)
    add_arguments(parser, "model", "images", "output", "shard", "code", settings="JSON: metrics, protocol, device, …")
    parser.add_argument("--attributions", type=Path, required=True, help="relevance table of the experiment")
    parser.add_argument("--responses", type=Path, help="response table of the dataset, for metrics that need it")
    return Job(**vars(parser.parse_args(argv)))


def run(job: Job) -> None:
    """Score every image of the split, or of a shard of it, and write one row for each."""
    task = job.task
    jobs = {task.key: job}

    def companions() -> list[Task]:
        """The run's other experiments on these images whose maps are there and whose scores are still to be computed."""
        if not all(metric.own for metric in chosen(switched_on(job.settings["metrics"])).values()):
            return []  # somebody else's code runs in its own job alone
        others = [other for other in planned("faithfulness", parse) if _there(other) and other.group == job.group]
        found = {other.task.key: other for other in others if other.task.key not in jobs and not other.task.done}
        jobs.update(found)
        return [other.task for other in found.values()]

    def worker(tasks: Sequence[Task]) -> Any:
        from fgg.faithfulness.job import Scorer

        started()
        return Scorer({own.key: jobs[own.key] for own in tasks})

    shared_work.fulfil(task, job.group, companions, worker)


def _there(job: Job) -> bool:
    """Whether the files that a job reads exist already."""
    files = (job.model / "model.safetensors", job.attributions, *([job.responses] if job.responses else []))
    return all(path.is_file() for path in files)


if __name__ == "__main__":
    sys.exit(main())
