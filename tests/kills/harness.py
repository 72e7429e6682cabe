"""Kills at random moments, and what must hold after them."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests import whole_workflow
from tests.kills import files
from tests.kills.processes import MARK, Member, counted, members, wait_for_all

SIGNALS = [signal.SIGKILL] * 8 + [signal.SIGTERM, signal.SIGINT]
ALL = "everything"
ROLES = {"job": 2, "training": 2, "helping Snakemake": 2}  # how often one is chosen; others once
CORES = (1, 2, 4)
RANDOM = re.compile(r"(?<=^tmp)\w{8}|(?<=^snakemake)\w{8}|^[0-9a-f]{32}|\d+")  # parts of names of temporary files
PATIENCE = 300.0  # seconds for anything that must end; reached only where something hangs


class Fault(AssertionError):
    """What a run of the workflow promises does not hold."""


@dataclass(frozen=True)
class Kill:
    """A process that was sent a signal."""

    role: str
    what: str
    sent: str
    age: float

    def __str__(self) -> str:
        return f"{self.sent.removeprefix('SIG')} {self.role} ({self.what}), {self.age:.1f} s old"


@dataclass
class Harness:
    """Runs the workflow in a folder again and again, and kills its processes.

    Attributes:
        folder: where the runs work.
        configs: the configuration files.
        expected: content (`files.content`) of a folder in which the same run was not disturbed.
        draw: what is killed, when and how. It fixes what is drawn, not how far the machine has come by then.
        target: what the plain command asks for.
        every: mean number of seconds until the next kill, from the start of a job or the last kill.
        most: kills until a run is left alone, so that it ends and is compared.
        tell: is called with each line of the protocol.
    """

    folder: Path
    configs: list[Path]
    expected: dict[str, str]
    draw: random.Random
    target: str = "results/summary.csv"
    every: float = 6.0
    most: int = 25
    tell: Callable[[str], None] = print
    kills: list[Kill] = field(default_factory=list)
    completed: int = 0
    started: int = 0
    damaged: dict[Path, bytes] = field(default_factory=dict)  # files that this harness has damaged, and their content
    notes: int = 0  # damaged or deleted files that a run has told of
    temporary: list[str] = field(default_factory=list)  # what killed processes left in the system's temporary folder

    def go(self, count: float = float("inf"), seconds: float = float("inf")) -> None:
        """Kill until there are ``count`` kills or the seconds are over; then let the run end, and compare.

        Raises:
            Fault: a promise does not hold; the folder is left as it is, without its processes.
            AssertionError: a file with its final name is not whole.
        """
        try:
            self._go(count, seconds)
        finally:
            for member in members(self._mark):
                _sent(member, signal.SIGKILL)

    def _go(self, count: float, seconds: float) -> None:
        until, before = time.monotonic() + seconds, 0

        def wanted(most: int) -> bool:
            return len(self.kills) < min(count, before + most) and time.monotonic() < until

        while True:
            if self._run(lambda: wanted(self.most)):
                self._check()
                self.completed, before = self.completed + 1, len(self.kills)
                if not wanted(1):
                    return
                self.tell(f"run {self.completed} is complete and has the right bytes; {self._start_over()}")
            elif self.draw.random() < 0.25 and (left := wait_for_all(self._mark, PATIENCE)):
                raise Fault(f"these processes do not end: {_listed(left)}")

    def summary(self) -> str:
        """What was done, in words."""
        return "\n".join(
            (
                f"{len(self.kills)} kills in {self.started} runs, of which {self.completed} were completed and compared",
                f"killed: {counted(kill.role for kill in self.kills)}",
                f"signals: {counted(kill.sent for kill in self.kills)}",
                f"their jobs: {counted(kill.what.split('/')[0] for kill in self.kills if kill.role != ALL)}",
                f"notes of damaged or deleted files: {self.notes}",
                f"left in the system's temporary folder by killed processes: {counted(iter(self.temporary)) or 'nothing'}",
            )
        )

    # ---- one run

    @property
    def _mark(self) -> Path:
        return self.folder / "tmp"

    @property
    def _said(self) -> Path:
        return self.folder / "said.txt"

    def _start(self) -> subprocess.Popen:
        cores = str(self.draw.choice(CORES))
        self._mark.mkdir(exist_ok=True)
        self.started += 1
        with self._said.open("wb") as output:
            return subprocess.Popen(
                whole_workflow.command(self.folder, "--cores", cores, self.target, configs=self.configs),
                cwd=whole_workflow.ROOT,
                env=whole_workflow.environment({MARK: str(self._mark)}),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _run(self, wanted: Callable[[], bool]) -> bool:
        """Start the plain command and kill, as long as that is wanted; whether it ended well."""
        run, before = self._start(), len(self.kills)
        if wanted() and self.draw.random() < 0.7:
            self._wait_for_a_job(run)
        while wanted() and self._pause(run):
            self._kill(run)
        if _lasts(run, PATIENCE):
            raise Fault(f"a run hangs: {_listed(members(self._mark))}\n{self._tail()}")
        said = self._said.read_text(errors="replace")
        self.notes += said.count(" is damaged: ") + said.count("deleted since the last run")
        killed = {kill.sent for kill in self.kills[before:]}
        if run.returncode and not killed:
            raise Fault(f"nobody killed this run, but it ended with status {run.returncode}\n{self._tail()}")
        if "Traceback" in said and not killed & {"SIGINT", "SIGTERM"}:
            raise Fault(f"a traceback instead of a message\n{self._tail()}")
        return run.returncode == 0

    def _wait_for_a_job(self, run: subprocess.Popen) -> None:
        """Wait until a job of the run has started, or the run has ended."""
        until, old = time.monotonic() + PATIENCE, {member.process for member in members(self._mark)}
        while time.monotonic() < until and _lasts(run, 0.1):
            if any(each.role in ("job", "training") for each in members(self._mark) if each.process not in old):
                return

    def _pause(self, run: subprocess.Popen) -> bool:
        """Wait until the next kill; whether the run still lasts. Some pauses last until the run has made more files."""
        if self.draw.random() < 0.3:
            more = self.draw.randint(1, max(1, len(self.expected) // 4))
            least, until = len(files.finished(self.folder)) + more, time.monotonic() + PATIENCE
            while len(files.finished(self.folder)) < least and time.monotonic() < until:
                if not _lasts(run, 0.2):
                    return False
        return _lasts(run, self.draw.uniform(0, 2 * self.every))

    def _kill(self, run: subprocess.Popen) -> None:
        found, sent = members(self._mark), self.draw.choice(SIGNALS)
        roles = sorted({member.role for member in found})
        weights = [ROLES.get(role, 1) for role in roles]
        role = ALL if not roles or self.draw.random() < 0.15 else self.draw.choices(roles, weights)[0]
        chosen = found if role == ALL else [self.draw.choice([each for each in found if each.role == role])]
        age = max((member.age for member in chosen), default=float("nan"))
        hit = [member for member in chosen if _sent(member, sent)]
        if not hit or not age >= 0:
            return  # it has just ended by itself
        what = hit[0].what if role != ALL else f"{len(hit)} processes"
        self.kills.append(Kill(role, what, sent.name, age))
        whole = files.check_no_partial_file(self.folder, self.damaged)
        self.tell(f"{len(self.kills):4d}  {self.kills[-1]}; {whole} files")

    # ---- after a run that ended well

    def _check(self) -> None:
        if left := wait_for_all(self._mark, PATIENCE):
            raise Fault(f"these processes are left over: {_listed(left)}")
        if wrong := files.differences(files.content(self.folder), self.expected):
            raise Fault("the files differ from those of the undisturbed run: " + "; ".join(wrong))
        if left := files.leftovers(self.folder):
            raise Fault(f"left over: {', '.join(left)}")
        self.temporary += [RANDOM.sub("*", path.name) for path in self._mark.iterdir()]
        shutil.rmtree(self._mark)
        again = self._start()
        again.wait(PATIENCE)
        if again.returncode or "Nothing to be done" not in self._said.read_text(errors="replace"):
            raise Fault(f"another run finds work to do in a complete folder\n{self._tail()}")

    def _start_over(self) -> str:
        how, self.damaged = files.start_over(self.folder, self.draw)
        return f"it starts over {how}"

    def _tail(self) -> str:
        return self._said.read_text(errors="replace")[-6000:]


def _lasts(run: subprocess.Popen, seconds: float) -> bool:
    """Wait some seconds; whether the run still lasts."""
    try:
        run.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def _sent(member: Member, sent: signal.Signals) -> bool:
    try:
        os.kill(member.process.pid, sent) if member.process.is_running() else None
    except (ProcessLookupError, psutil.Error):
        return False
    return True


def _listed(those: list[Member]) -> str:
    return ", ".join(f"{member.role} {member.what} (process {member.process.pid})" for member in those)
