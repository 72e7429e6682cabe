"""A file that was deleted or damaged is missed until it is made again, however often the runs in between are killed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fgg.errors import FggError
from fgg.pipeline import again, outputs, runs
from fgg.pipeline.outputs import DAMAGED, LAST, Outputs
from fgg.pipeline.tending import Tending
from fgg.tables import atomic

FIGURE = "results/figures/a.png"
PATTERNS = [(re.compile(r"results/summary\.csv$"), False), (re.compile(r"results/figures/\w+\.png$"), False)]


class Command:
    """A command line whose second run makes the files, or is killed."""

    dry = False

    def __init__(self, killed: bool = False) -> None:
        self.killed, self.asked = killed, []

    def run(self, folder: Path, targets, forced, locks) -> None:
        self.asked += targets
        if self.killed:
            raise FggError("killed")
        for target in targets:
            make(folder / target)


def make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("content")


def tending(folder: Path, command: Command, kept=()) -> Tending:
    """A run that has planned its jobs and made the summary."""
    own = Tending(folder, PATTERNS, command)
    assert not list(own.before())
    notes = list(own.start([FIGURE, LAST], kept))
    assert len(notes) == len(kept)
    make(folder / LAST)
    return own


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder in which a whole run was; then the figure and the summary were deleted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(again.AGAIN, raising=False)
    monkeypatch.setattr("fgg.pipeline.runs.claim", lambda folder, early=False: None)
    for name in (FIGURE, LAST):
        make(tmp_path / name)
    tending(tmp_path, Command()).note()
    for name in (FIGURE, LAST):
        (tmp_path / name).unlink()
    return tmp_path


@pytest.mark.parametrize("killed", ["in its jobs", "while it makes the file again", "by an error"])
def test_the_next_run_makes_it(folder, killed):
    if killed == "while it makes the file again":
        with pytest.raises(FggError):
            tending(folder, Command(killed=True), kept=[FIGURE])
        make(folder / LAST)
    else:
        first = tending(folder, Command())
        if killed == "by an error":
            first.note()  # what Snakemake calls when a job has failed
    assert Outputs.read(folder).deleted(folder) == [FIGURE]
    command = Command()
    assert "deleted since the last run" in "\n".join(Tending(folder, PATTERNS, command).before())
    assert command.asked == [FIGURE] and (folder / FIGURE).is_file()


def test_what_no_job_of_the_plan_would_make_is_made_first(folder):
    command = Command()
    tending(folder, command, kept=[FIGURE]).note()
    assert command.asked == [FIGURE] and not Outputs.read(folder).deleted(folder)


def test_what_was_never_seen_is_made_too(folder):
    """A job that was killed after it had written its first output, in a folder that no run has finished."""
    (folder / outputs.LIST).unlink()
    command = Command()
    tending(folder, command, kept=[FIGURE])
    assert command.asked == [FIGURE] and (folder / FIGURE).is_file()


def test_a_damaged_file_is_made_by_the_next_run_if_this_one_is_killed(folder):
    tending(folder, Command()).note()
    with atomic(folder / FIGURE) as temporary:
        temporary.write_text("a figure")
    (folder / FIGURE).write_text("a fig.re")
    with pytest.raises(FggError, match="killed"):
        list(Tending(folder, PATTERNS, Command(killed=True)).before())
    assert not (folder / FIGURE).exists() and (folder / DAMAGED / FIGURE).read_text() == "a fig.re"
    command = Command()
    assert "deleted since the last run" in "\n".join(Tending(folder, PATTERNS, command).before())
    assert command.asked == [FIGURE] and (folder / FIGURE).is_file()


@pytest.mark.parametrize("jobs", [False, True])
def test_a_run_without_jobs_tidies_up_after_one_that_was_killed_at_its_end(folder, jobs, monkeypatch):
    at_the_end = []
    monkeypatch.setattr("atexit.register", at_the_end.append)
    make(folder / LAST)
    make(folder / runs.SHARED / "checksums" / "a")
    own = Tending(folder, PATTERNS, Command())
    list(own.before())
    if jobs:
        list(own.start([FIGURE, LAST], []))
    for each in at_the_end:
        each()
    assert (folder / runs.SHARED).exists() == jobs
