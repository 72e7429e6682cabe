"""The processes of the runs in a folder: found by a mark in their environment, also those that lost their parent."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "TMPDIR"  # environment variable that a job hands on to whatever it starts; each folder has its own
TRAININGS = ("fgg.models.build_model", "fgg.saes.build_sae")
LOG = re.compile(r"> logs/(\S+)\.log")


@dataclass(frozen=True)
class Member:
    """A process that belongs to a run.

    Attributes:
        role: what it is: ``Snakemake``, ``helping Snakemake``, ``shell``, ``job``, ``training`` or ``child``.
        what: the job that it works for, by the name of its log; else its module or program.
    """

    process: psutil.Process
    role: str
    what: str

    @property
    def age(self) -> float:
        """Seconds since the process started; NaN if it has ended."""
        try:
            return time.time() - self.process.create_time()
        except psutil.Error:
            return float("nan")


def members(mark: Path) -> list[Member]:
    """The processes that run now with a mark in their environment, the oldest first."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(mark) and process.status() != psutil.STATUS_ZOMBIE:
                found.append((process.create_time(), process.pid, Member(process, *_described(process))))
        except psutil.Error:
            continue  # it has just ended, or belongs to another user
    return [member for *_, member in sorted(found, key=lambda each: each[:2])]


def _described(process: psutil.Process) -> tuple[str, str]:
    words = process.cmdline()
    module = next((word for before, word in itertools.pairwise(words) if before == "-m"), "")
    if module == "snakemake":
        return ("helping Snakemake" if "--nolock" in words else "Snakemake"), "the workflow"
    if module.startswith("fgg."):
        return ("training" if module in TRAININGS else "job"), _log_of(process) or module
    shell = LOG.search(" ".join(words))
    if shell:
        return "shell", shell[1]
    return "child", Path(words[0]).name if words else process.name()


def _log_of(process: psutil.Process) -> str:
    """The job's log, to which the process writes, without its suffix; empty if it writes elsewhere."""
    for number in ("1", "2"):
        try:
            path = Path("/proc", str(process.pid), "fd", number).resolve(strict=True).as_posix()
        except OSError:
            continue
        if "/logs/" in path:
            return path.rpartition("/logs/")[2].removesuffix(".log")
    return ""


def wait_for_all(mark: Path, patience: float) -> list[Member]:
    """Wait until no process has the mark; those that are left after ``patience`` seconds."""
    until = time.monotonic() + patience
    while (left := members(mark)) and time.monotonic() < until:
        time.sleep(0.1)
    return left


def counted(names: Iterator[str]) -> str:
    """Names with how often each occurs, the most frequent first."""
    found: dict[str, int] = {}
    for name in names:
        found[name] = found.get(name, 0) + 1
    return ", ".join(f"{name} {count}" for name, count in sorted(found.items(), key=lambda each: -each[1]))
