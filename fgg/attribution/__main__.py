"""Attributions of one experiment: ``python -m fgg.attribution``.

Reads a model's folder, a prepared split and the SAEs; writes the relevance of every image, and the gates. Within a
run of the workflow, the experiments of a dataset are computed together (`fgg.jobs.shared_work`). Most jobs then find
their pieces ready, so this file does not import torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from fgg.attribution.job import Job, parse
from fgg.attribution.registry import methods
from fgg.jobs import shared_work
from fgg.jobs.command import command, started
from fgg.jobs.plan import planned
from fgg.jobs.shared_work import Task

MOST_SAE_BYTES = 2**30  # of SAEs that one job keeps in memory for experiments other than its own


@command
def main(argv: list[str] | None = None) -> None:
    """Run one experiment."""
    run(parse(argv))


def run(job: Job) -> None:
    """Attribute every image of the split, or of a shard of it, and write the tables."""
    task = job.task
    if task.settings["note"]:
        print(f"warning: {task.settings['note']}", file=sys.stderr)
    jobs = {task.key: job}

    def companions() -> list[Task]:
        """The other experiments on these images that are not yet computed and whose SAEs fit in memory."""
        tasks, known, room = [], set(job.saes.values()), MOST_SAE_BYTES
        for other in planned("attribution", parse):
            if other.experiment["method"] not in methods() or not _there(other) or other.group != job.group:
                continue  # code of other packages runs only in its own job
            new = set(other.saes.values()) - known
            room -= (needed := sum((folder / "sae_weights.safetensors").stat().st_size for folder in new))
            if room < 0 or other.task.key in jobs or other.task.done:
                room += needed
                continue
            known |= new
            jobs[other.task.key] = other
            tasks.append(other.task)
        return tasks

    def worker(tasks: Sequence[Task]) -> Any:
        from fgg.attribution.attributor import Attributor

        started()
        return Attributor({own.key: jobs[own.key] for own in tasks})

    def twins() -> list[Task]:
        """The same experiment of other seeds, where it does not depend on the seed."""
        same = [
            other for other in planned("attribution", parse) if other.experiment == job.experiment and _there(other)
        ]
        return [other.task for other in same if other.group == job.group and other.task.key == task.key]

    shared_work.fulfil(task, job.group, companions, worker, twins)


def _there(job: Job) -> bool:
    """Whether the files that a job reads exist already."""
    files = [job.model / "model.safetensors", *(folder / "cfg.json" for folder in job.saes.values())]
    return all(path.is_file() for path in [*files, *([job.chosen] if job.chosen else [])])


if __name__ == "__main__":
    sys.exit(main())
