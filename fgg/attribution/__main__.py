"""Attributions of one experiment: ``python -m fgg.attribution``.

Reads a model's folder, a prepared split and the SAEs; writes the relevance of every image, and the gates. Within a run of the
workflow the experiments of a data set are computed together (`fgg.jobs.shared_work`); this file imports no torch, since most
jobs then find their pieces ready.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fgg.attribution.registry import methods
from fgg.degeneracy import measured, note
from fgg.jobs import shared_work
from fgg.jobs.command import add_arguments, command, started
from fgg.jobs.plan import planned
from fgg.jobs.shards import WHOLE, Shard
from fgg.jobs.shared_work import Task, checksum, group_of
from fgg.tables import read_json

MOST_SAE_BYTES = 2**30  # of the SAEs that one job keeps in memory for other experiments than its own


@dataclass(frozen=True)
class Job:
    """The arguments of one job; see the command's help."""

    model: Path
    images: Path
    experiment: dict[str, Any]
    settings: dict[str, Any]
    relevance: Path
    gates: Path | None = None
    saes: Mapping[int, Path] = field(default_factory=dict)
    shard: Shard = WHOLE
    code: str = ""

    @property
    def group(self) -> str:
        """Equal for jobs that can share a pass of the model."""
        files = [checksum(path) for path in (self.model / "model.safetensors", self.model / "model.json", self.images)]
        return group_of("attribution", *files, self.settings, (self.shard.number, self.shard.count))

    @property
    def task(self) -> Task:
        """What the job makes, and what that depends on."""
        files = {
            "model": self.model / "model.safetensors",
            "model.json": self.model / "model.json",
            "images": self.images,
        }
        for layer, folder in sorted(self.saes.items()):
            files |= {f"sae {layer}": folder / "sae_weights.safetensors", f"sae {layer} cfg": folder / "cfg.json"}
        if "maps" in self.experiment:
            files["maps"] = Path(self.experiment["maps"])
        remark = note(self.experiment, measured(read_json(self.model / "model.json")["layers"]))
        outputs = {"relevance": self.relevance, **({"gates": self.gates} if self.gates else {})}
        settings = {"experiment": self.experiment, **self.settings, "note": remark}
        made_from = {"code": self.code, "files": {name: checksum(path) for name, path in files.items()}}
        return Task("attribution", outputs, settings, made_from)


@command
def main(argv: list[str] | None = None) -> None:
    """Run one experiment."""
    run(parse(argv))


def parse(argv: Sequence[str] | None) -> Job:
    """The job that a command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m fgg.attribution", description=__doc__)
    add_arguments(parser, "model", "images", "experiment", "shard", "code", settings="JSON: seed, device, precision, …")
    parser.add_argument(
        "--sae", action="append", default=[], type=_sae, metavar="LAYER=FOLDER", help="SAE of a layer; repeatable"
    )
    parser.add_argument("--relevance", type=Path, required=True, help="table to write")
    parser.add_argument("--gates", type=Path, help="table of gates to write")
    options = vars(parser.parse_args(argv))
    return Job(saes=dict(options.pop("sae")), **options)


def _sae(text: str) -> tuple[int, Path]:
    layer, _, folder = text.partition("=")
    if not (layer.isdecimal() and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form LAYER=FOLDER, such as 2=data/saes/elpv/layer_2")
    return int(layer), Path(folder)


def run(job: Job) -> None:
    """Attribute every image of the split, or of a shard of it, and write the tables."""
    task = job.task
    if task.settings["note"]:
        print(f"warning: {task.settings['note']}", file=sys.stderr)
    jobs = {task.key: job}

    def companions() -> list[Task]:
        """The run's other experiments on these images that are still to be computed, as far as their SAEs fit in memory."""
        tasks, known, room = [], set(job.saes.values()), MOST_SAE_BYTES
        for other in planned("attribution", parse):
            if other.experiment["method"] not in methods() or not _there(other) or other.group != job.group:
                continue  # somebody else's code runs in its own job alone
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
        from fgg.attribution.job import Attributor

        started()
        return Attributor({own.key: jobs[own.key] for own in tasks})

    shared_work.fulfil(task, job.group, companions, worker)


def _there(job: Job) -> bool:
    """Whether the files that a job reads exist already."""
    return (job.model / "model.safetensors").is_file() and all((f / "cfg.json").is_file() for f in job.saes.values())


if __name__ == "__main__":
    sys.exit(main())
