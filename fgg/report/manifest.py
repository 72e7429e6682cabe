"""The record of a run: its configuration, versions, the checksums of what it read and wrote, and how long its jobs took.

    python -m fgg.report.manifest --configuration JSON --inputs JSON --output results/manifest.json

Reads the records of checksums below ``data`` and ``results``, and the times below ``benchmarks``, in the working folder.
Because it holds times and versions, it is the one file of the results that differs between two equal runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

from fgg.checksums import versions, written
from fgg.jobs.command import add_arguments, command, json_object
from fgg.report.pages import commit
from fgg.tables import SCHEMA_VERSION, atomic

BENCHMARKS = Path("benchmarks")
LATER = ("results/manifest.json", "results/summary.csv")  # written after this record is made


@command
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments and write the record."""
    parser = argparse.ArgumentParser(prog="python -m fgg.report.manifest", description=__doc__.split("\n")[0])
    parser.add_argument("--configuration", required=True, type=json_object, help="JSON: the resolved configuration")
    parser.add_argument("--inputs", required=True, type=json_object, help="JSON: hashes of the user's files")
    add_arguments(parser, output="file to write")
    arguments = parser.parse_args(argv)
    record = manifest(Path(), arguments.configuration, arguments.inputs)
    text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    with atomic(arguments.output) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def manifest(folder: Path, configuration: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """The record of a working folder.

    Returns:
        ``configuration``; ``versions`` of Python, this package and the libraries that can change numbers; ``inputs``; per
        file in ``outputs`` its ``bytes``, ``sha256`` and, where they are not today's, the versions that made it (all files
        but this one and summary.csv, which is written last); ``seconds`` per job, by the place of its benchmark.
    """
    now = versions()
    outputs = {}
    for path, record in written(folder):
        if path not in LATER:
            other = {} if record.versions == now else {"versions": record.versions}
            outputs[path] = {"bytes": record.size, "sha256": record.sha256, **other}
    return {
        "schema": SCHEMA_VERSION,
        "configuration": configuration,
        "versions": {"python": platform.python_version(), "fgg": commit(), **now},
        "inputs": inputs,
        "outputs": outputs,
        "seconds": {
            path.relative_to(folder / BENCHMARKS).with_suffix("").as_posix(): seconds(path)
            for path in sorted((folder / BENCHMARKS).rglob("*.tsv"))
        },
    }


def seconds(path: Path) -> float | None:
    """The wall time in one of Snakemake's benchmark files; None if it holds none."""
    try:
        head, row = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[:2])
        return float(row[head.index("s")])
    except (OSError, ValueError):
        return None


if __name__ == "__main__":
    sys.exit(main())
