"""File systems without locks, as some network file systems are: two runs are kept apart, and killed runs go on."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import subprocess
import sys

import pytest

from fgg.errors import FggError
from fgg.jobs import shared_work
from fgg.pipeline import runs

WAIT = "import time; print('ready', flush=True); time.sleep(600)"
UNSUPPORTED = [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EIO]


@pytest.fixture(params=UNSUPPORTED, ids=errno.errorcode.get)
def place(request, tmp_path, monkeypatch):
    """A folder with Snakemake's lock files, on a file system whose locks fail."""

    def fail(file, how):
        raise OSError(request.param, os.strerror(request.param))

    (tmp_path / ".snakemake" / "locks").mkdir(parents=True)
    for kind in ("input", "output"):
        (tmp_path / ".snakemake" / "locks" / f"0.{kind}.lock").write_text("x\n")
    monkeypatch.setattr(fcntl, "flock", fail)
    monkeypatch.setattr(runs, "_held", [])
    monkeypatch.setenv(runs.RUN, "")
    yield tmp_path
    for file in runs._held:
        file.close()
    runs.atexit.unregister(runs._tell)


def sign(place, process: int, host: str = platform.node()) -> str:
    text = json.dumps({"host": host, "process": process})
    (place / ".snakemake" / "fgg.lock").write_text(text)
    return text


def locks(place) -> int:
    return len(list((place / ".snakemake" / "locks").iterdir()))


@pytest.fixture
def run_at_work():
    """The number of a process whose command line is that of a run."""
    process = subprocess.Popen([sys.executable, "-c", WAIT, "snakemake"], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    yield process.pid
    process.kill()
    process.wait()


def test_a_second_run_is_refused_and_leaves_the_first_one_s_name(place, run_at_work):
    signed = sign(place, run_at_work)
    assert runs.enter(place) is None and runs.busy(place)
    with pytest.raises(FggError, match=rf"another run \(process {run_at_work} on .*--directory"):
        runs.claim(place)
    assert locks(place) == 2 and (place / ".snakemake" / "fgg.lock").read_text() == signed


def test_the_lock_of_a_killed_run_is_removed(place):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    sign(place, gone.pid)
    assert f"the last run here (process {gone.pid}" in runs.enter(place)
    runs.claim(place)
    assert not locks(place) and not runs.busy(place)
    assert json.loads((place / ".snakemake" / "fgg.lock").read_text())["process"] == os.getpid()


def test_a_number_that_another_program_has_now_is_no_run(place):
    process = subprocess.Popen([sys.executable, "-c", WAIT], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    try:
        sign(place, process.pid)
        assert "was killed; its lock is removed" in runs.enter(place)
    finally:
        process.kill()
        process.wait()


def test_a_run_on_another_machine_keeps_its_lock_and_its_name(place):
    signed = sign(place, 1, host="elsewhere")
    assert "snakemake --unlock, then the same command again" in runs.enter(place)
    runs.claim(place)
    assert locks(place) == 2 and (place / ".snakemake" / "fgg.lock").read_text() == signed


def test_jobs_share_work_without_locks(place):
    shelf = shared_work._Shelf(place)
    with shelf.hold("0", wait=False) as one, shelf.hold("0", wait=True) as two:
        assert one and two, "at worst a piece is computed twice"
