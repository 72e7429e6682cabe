"""Time and memory of the workflow's plan and of the comparison at a given scale: ``python -m fgg.bench.scale``.

``plan`` makes dry runs of the workflow over a folder of tiny files, for several numbers of shards. ``comparison`` compares
synthetic scores. Both write into a temporary folder only. Each measurement is a process of its own. Its CPU time counts,
since other programs of the machine disturb the time on the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgg.bench import synthetic_tables
from fgg.errors import FggError
from fgg.jobs.command import command
from fgg.pipeline.workflow_files import PACKAGE, SNAKEFILE

STUDY: dict[str, Any] = {
    "run": ["synthetic"],
    "device": "cpu",
    "datasets": {
        "synthetic": {
            "source": "image_folder",
            "path": "pictures",
            "fractions": {"train": 0.1, "val": 0.1, "test": 0.8},
            "model": {
                "architecture": "vit_tiny_patch16_224",
                "kwargs": {"img_size": 64, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 2},
                "weights": "train",
            },
            "preprocess": {"resize": 64},
            "sae": {"layers": [1], "weights": "train"},
        }
    },
    "experiments": {  # twelve of them
        "baselines": ["random", "rollout", "gradcam", "tokentm", "transmm"],
        "gated": {"layers": [[1]], "construction": ["combined", "no_sae"], "shuffle_decoder": [False, True]},
        "controls": ["permuted_gate", "sharpened", "gate_values", "gate_order"],
        "sanity": [],
    },
    "cases": {"enabled": False},
    "select": {"enabled": False},
}


@dataclass(frozen=True)
class Cost:
    """What a process took.

    Attributes:
        seconds: CPU time.
        mib: peak memory.
        said: its output and its errors.
    """

    seconds: float
    mib: float
    said: str


@command
def main(argv: list[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m fgg.bench.scale", description=__doc__.split("\n")[0])
    parts = parser.add_subparsers(dest="part", required=True)
    planned = parts.add_parser("plan", help="dry runs of the workflow with twelve experiments")
    planned.add_argument("--images", type=int, default=50_000)
    planned.add_argument("--shards", type=int, nargs="+", default=[1, 3, 30, 300])
    compared = parts.add_parser("comparison", help="the comparison of synthetic scores")
    compared.add_argument("--images", type=int, default=5000)
    compared.add_argument("--experiments", type=int, nargs="+", default=[5, 20], help="114 at most")
    compared.add_argument("--classes", type=int, default=2, help="up to 20 are strata of their own")
    compared.add_argument("--undefined", type=float, default=0.0, help="share of images without a correlation")
    arguments = parser.parse_args(argv)
    if arguments.part == "plan":
        for shards, jobs, cost in plan(arguments.images, arguments.shards):
            print(
                f"{arguments.images} images, {shards} shards: {jobs} jobs, {cost.seconds:.1f} s, {cost.mib:.0f} MiB",
                flush=True,
            )
        return
    for experiments in arguments.experiments:
        cost = comparison(arguments.images, experiments, arguments.classes, arguments.undefined)
        print(
            f"{arguments.images} images, {experiments} experiments, {arguments.classes} classes: "
            f"{cost.seconds:.1f} s, {cost.mib:.0f} MiB",
            flush=True,
        )


def plan(images: int, shards: Sequence[int]) -> list[tuple[int, int, Cost]]:
    """The number of shards, the number of jobs of a new run, and the cost of its dry run, for each number of shards."""
    found = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number in range(images):
            own = folder / "pictures" / f"class{number % 2}"
            own.mkdir(parents=True, exist_ok=True) if number < 2 else None
            (own / f"{number:07d}.png").write_bytes(b"%d" % number)  # a dry run reads no picture
        for count in shards:
            own = folder / f"{count}.json"
            own.write_text(json.dumps({**STUDY, "shards": count}))
            words = ["-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", place, "--cores", "1"]
            words += ["results/summary.csv", "--dry-run", "--quiet", "rules", "--configfile", str(own)]
            cost = measured(words)
            found.append((count, int(re.findall(r"(?m)^total +(\d+)$", cost.said)[0]), cost))
    return found


def comparison(images: int, experiments: int, classes: int, undefined: float) -> Cost:
    """The cost of ``python -m fgg.comparison`` for synthetic scores."""
    with tempfile.TemporaryDirectory() as place:
        results = Path(place, "results")
        settings = synthetic_tables.write(results, images, experiments, classes, undefined)
        own = Path(place, "settings.json")
        own.write_text(json.dumps(settings))
        words = ["-m", "fgg.comparison", "--settings", str(own), "--results", str(results), "--output", str(results)]
        return measured(words)


def measured(words: Sequence[str]) -> Cost:
    """Run Python with a command line, on one thread.

    Raises:
        FggError: it fails.
    """
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1"}
    surroundings["PYTHONPATH"] = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        process = subprocess.Popen([sys.executable, *words], stdout=said, stderr=subprocess.STDOUT, env=surroundings)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read()
    if process.returncode:
        raise FggError(f"`python {' '.join(words[:2])}` failed; its last words: {text[-2000:]}")
    return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, text)


if __name__ == "__main__":
    sys.exit(main())
