"""Faithfulness of one experiment's attributions, by one metric or several: ``python -m fgg.faithfulness``.

Within a run of the workflow, the experiments of a dataset are scored together (`fgg.jobs.shared_work`). Most jobs then
find their pieces ready, so this file does not import torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from fgg.faithfulness.job import Job, parse
from fgg.faithfulness.measures import fills_of, measures
from fgg.jobs import shared_work
from fgg.jobs.command import command, started
from fgg.jobs.plan import planned
from fgg.jobs.shared_work import Task


@command
def main(argv: list[str] | None = None) -> None:
    """Score one experiment."""
    run(parse(argv))


def run(job: Job) -> None:
    """Score every image of the split, or of a shard of it, and write one row for each."""
    task = job.task
    jobs = {task.key: job}
    scorers: list[Any] = []  # none where other jobs have computed all pieces

    def companions() -> list[Task]:
        """The other experiments on these images whose maps exist and whose scores are not yet computed."""
        if not all(own.metric.own for own in measures(fills_of(job.settings["metrics"])).values()):
            return []  # code of other packages runs only in its own job
        others = [other for other in planned("faithfulness", parse) if _there(other) and other.group == job.group]
        found = {other.task.key: other for other in others if other.task.key not in jobs and not other.task.done}
        jobs.update(found)
        return [other.task for other in found.values()]

    def worker(tasks: Sequence[Task]) -> Any:
        from fgg.faithfulness.scorer import Scorer

        started()
        scorers.append(Scorer({own.key: jobs[own.key] for own in tasks}))
        return scorers[0]

    def twins() -> list[Task]:
        """The same maps of other seeds, where they do not depend on the seed."""
        same = [other for other in planned("faithfulness", parse) if other.attributions.name == job.attributions.name]
        return [
            other.task for other in same if _there(other) and other.group == job.group and other.task.key == task.key
        ]

    shared_work.fulfil(task, job.group, companions, worker, twins)
    for scorer in scorers:
        if scorer.passes.asked:
            print(scorer.passes)


def _there(job: Job) -> bool:
    """Whether the files that a job reads exist already."""
    files = (job.model / "model.safetensors", job.attributions, *([job.responses] if job.responses else []))
    return all(path.is_file() for path in files)


if __name__ == "__main__":
    sys.exit(main())
