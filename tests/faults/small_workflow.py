"""What the tests of faults share: the small workflow and its commands one by one, its pictures, and file systems of their own."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import one_process
import pytest
import whole_workflow
from pictures import draw

ROOT = Path(__file__).resolve().parents[2]
SMALL = Path(__file__).with_name("small.yaml")


def start(folder: Path, *arguments: str, said: Path | None = None) -> subprocess.Popen:
    """Start the small workflow in a folder, in a process group of its own; its output goes to ``said.txt`` there."""
    with (said or folder / "said.txt").open("ab") as output:
        return subprocess.Popen(
            whole_workflow.command(folder, "--cores", "2", *arguments, configs=[SMALL]),
            cwd=ROOT,
            env=whole_workflow.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def planned(folder: Path, target: str = "results/summary.csv") -> dict[str, list[str]]:
    """The commands of a dry run, in their order: name of the log without its suffix -> module and arguments."""
    start(folder, "--dry-run", "--printshellcmds", target).wait(240)
    return one_process.commands((folder / "said.txt").read_text())


def run(module: str, *arguments: str) -> int:
    """Run a command of the package in this process; its exit status."""
    found = importlib.import_module(module)
    if not hasattr(found, "main"):
        found = importlib.import_module(f"{module}.__main__")
    try:
        return found.main(list(arguments))
    except SystemExit as end:  # argparse
        return end.code


def pictures(folder: Path) -> Path:
    """Draw the pictures of the small workflow into a folder, and return it."""
    draw(folder / "pictures", per_class=8, side=16)
    return folder


@contextlib.contextmanager
def file_system(place: Path, options: str) -> Iterator[Path]:
    """A file system in memory, at a place that does not exist yet; the test is skipped where only root may mount one."""
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("a file system can be mounted by root alone")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)
