"""The lock of a run, stale locks, jobs whose run is gone, and what killed writers leave behind."""

import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fgg.errors import FggError
from fgg.liveness import alive
from fgg.pipeline import runs
from fgg.tables import atomic, write_json

ROOT = Path(__file__).parents[2]
HOLD = "import sys, time; from pathlib import Path; from fgg.pipeline import runs; runs.enter(Path.cwd()); runs.claim(Path.cwd())"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the lock files of Snakemake; nothing is held or registered afterwards."""
    (tmp_path / ".snakemake" / "locks").mkdir(parents=True)
    monkeypatch.setattr(runs, "_held", [])
    monkeypatch.setenv(runs.RUN, "")
    yield tmp_path
    for file in runs._held:
        file.close()
    runs.atexit.unregister(runs._tell)


def lock(place):
    for kind in ("input", "output"):
        (place / ".snakemake" / "locks" / f"0.{kind}.lock").write_text("x\n")


def locks(place):
    return list((place / ".snakemake" / "locks").iterdir())


def holder(place):
    """Another process that holds the folder."""
    code = f"{HOLD}; print('held', flush=True); time.sleep(600)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=place, env=environment, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_folder_without_locks_is_entered_silently(place):
    assert runs.enter(place) is None
    assert os.environ[runs.RUN] == f"{platform.node()}:{os.getpid()}"


def test_the_lock_of_a_killed_run_is_removed_and_told(place):
    process = holder(place)
    lock(place)
    process.send_signal(signal.SIGKILL)
    process.wait()
    said = runs.enter(place)
    assert f"the last run here (process {process.pid} on {platform.node()}) was killed" in said
    assert not locks(place)
    runs.claim(place)


def test_the_lock_of_a_run_at_work_stays_and_a_second_run_is_told(place, capsys):
    process = holder(place)
    lock(place)
    try:
        assert runs.enter(place) is None
        assert len(locks(place)) == 2
        runs._tell(place)
        with pytest.raises(FggError, match=rf"another run \(process {process.pid} on .*--directory"):
            runs.claim(place)
    finally:
        process.kill()
        process.wait()
    assert f"note: another run (process {process.pid} on" in capsys.readouterr().err


@pytest.mark.parametrize("early", [True, False])
def test_what_helped_a_killed_run_is_waited_for(place, monkeypatch, early):
    """The signer is gone, and a process that has its lock ends a moment later; then Snakemake's locks go, too.

    They stay once Snakemake has locked the folder for this process: then they are its own.
    """
    process = holder(place)
    lock(place)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (place / ".snakemake" / "fgg.lock").write_text(json.dumps({"host": platform.node(), "process": gone.pid}))
    monkeypatch.setattr(runs, "STEP", 0.01)
    monkeypatch.setattr(runs, "PATIENCE", 0.05)
    assert runs.enter(place) is None
    with pytest.raises(FggError, match="another run"):
        runs.claim(place, early)
    assert len(locks(place)) == 2
    monkeypatch.setattr(runs, "PATIENCE", 60)
    threading.Timer(0.3, process.kill).start()
    runs.claim(place, early)
    assert runs.locked()
    assert len(locks(place)) == (0 if early else 2)
    process.wait()


@pytest.mark.parametrize("at_work", [True, False])
def test_a_run_that_makes_files_again_ends_with_the_run_that_it_helps(tmp_path, at_work):
    """At its jobs it is interrupted, as Snakemake is to end well; before, it just ends, without a traceback."""
    helper = "import time; from pathlib import Path; from fgg.pipeline import runs; runs.enter(Path.cwd()); "
    helper += "runs.claim(Path.cwd()); " if at_work else ""
    helper += "time.sleep(600)"
    code = f"import subprocess, sys; own = subprocess.Popen([sys.executable, '-c', {helper!r}]); print(own.pid, flush=True); own.wait()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FGG_AGAIN": "1"}
    said = (tmp_path / "said").open("wb")
    helped = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=said
    )
    number = int(helped.stdout.readline())
    time.sleep(1.5)  # until it follows
    assert alive(number)
    helped.kill()
    helped.wait()
    until = time.monotonic() + 30
    while Path(f"/proc/{number}/cmdline").is_file() and Path(f"/proc/{number}/cmdline").read_bytes():
        assert time.monotonic() < until, "it goes on"
        time.sleep(0.1)
    if not at_work:
        assert (tmp_path / "said").read_text() == ""


@pytest.mark.parametrize(
    "owner", ["", "{", json.dumps({"host": "elsewhere", "process": 1})], ids=["none", "cut", "far"]
)
def test_a_lock_of_unknown_origin_stays_with_the_command_to_type(place, owner):
    lock(place)
    (place / ".snakemake" / "fgg.lock").write_text(owner)
    said = runs.enter(place)
    assert "snakemake --unlock, then the same command again" in said and len(locks(place)) == 2
    assert (place / ".snakemake" / "fgg.lock").read_text() == owner


def test_a_folder_that_cannot_be_written_is_told(place):
    (place / ".snakemake").rename(place / "away")
    (place / ".snakemake").touch()  # a file in the way
    with pytest.raises(FggError, match=r"nothing can be written to .*another folder with --directory"):
        runs.enter(place)
    runs.claim(place)


def test_a_job_whose_run_is_gone_writes_nothing(tmp_path, monkeypatch):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setenv(runs.RUN, f"{platform.node()}:{gone.pid}")
    with pytest.raises(FggError, match=rf"\(process {gone.pid}\) has ended, so its result is not written"):
        write_json(tmp_path / "r.json", {}, {})
    assert not list(tmp_path.iterdir())


def test_a_run_that_goes_while_a_file_is_written_gets_no_file(tmp_path, monkeypatch):
    monkeypatch.delenv(runs.RUN, raising=False)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with pytest.raises(FggError, match="has ended"), atomic(tmp_path / "x") as temporary:
        temporary.write_text("all")
        monkeypatch.setenv(runs.RUN, f"{platform.node()}:{gone.pid}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["", "elsewhere:1", "own"])
def test_other_jobs_write(tmp_path, monkeypatch, value):
    monkeypatch.setenv(runs.RUN, f"{platform.node()}:{os.getpid()}" if value == "own" else value)
    write_json(tmp_path / "r.json", {}, {})
    assert (tmp_path / "r.json").is_file()


def test_a_writer_that_is_killed_leaves_no_file_and_the_next_one_tidies_up(tmp_path):
    code = (
        "import sys, time; from fgg.tables import atomic\nwith atomic('x.txt') as file:\n    file.write_text('half')\n"
    )
    code += "    print('half', flush=True); time.sleep(600)"
    writer = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert writer.stdout.readline() == b"half\n"
    (left,) = tmp_path.iterdir()
    with atomic(tmp_path / "x.txt") as file:
        file.write_text("while the other one is at work")
        assert left.exists(), "a living writer's file stays"
    writer.kill()
    writer.wait()
    assert sorted(tmp_path.iterdir()) == sorted([left, tmp_path / "x.txt"])
    with atomic(tmp_path / "x.txt") as file:
        file.write_text("all")
    assert list(tmp_path.iterdir()) == [tmp_path / "x.txt"]
    assert (tmp_path / "x.txt").read_text() == "all"
