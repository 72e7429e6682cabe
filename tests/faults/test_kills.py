"""kill -9 at random moments, of the workflow, of its jobs, and of both; and two runs at once in one folder."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
import xml.etree.ElementTree
from pathlib import Path

import one_process
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors import safe_open
from small_workflow import planned, start

pytestmark = pytest.mark.dag
SEED = 7
KILLS = ["workflow", "job", "both"] * 3 + ["workflow"]
MOST_FILES = 23  # from where on only figures, words, pages and the summary are missing
TARGET = "results/summary.csv"
PATIENCE = 240  # seconds for anything that must end; reached only where something hangs


# ---- what is looked at


def files(folder: Path) -> dict[str, bytes]:
    """Everything below data/ and results/: name -> bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for place in ("data", "results")
        for path in sorted((folder / place).rglob("*"))
        if path.is_file()
    }


def check_whole(path: Path) -> None:
    """Read a file to its end; a partial one raises."""
    if path.suffix == ".parquet":
        assert pq.read_table(path).num_rows
    elif path.suffix == ".json":
        assert json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".csv":
        assert path.read_bytes().endswith(b"\n") and len(pd.read_csv(path).columns)
    elif path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
    elif path.suffix == ".svg":
        xml.etree.ElementTree.fromstring(path.read_text(encoding="utf-8"))
    elif path.suffix == ".html":
        assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    elif path.suffix == ".md":
        assert path.read_bytes().endswith(b"\n")
    elif path.suffix == ".safetensors":
        with safe_open(path, "np") as file:
            assert [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 - no mapping
    else:
        raise AssertionError(f"a file of unknown kind: {path}")


def final_files(folder: Path) -> list[Path]:
    return [path for place in ("data", "results") for path in (folder / place).rglob("[!.]*") if path.is_file()]


def check_no_partial_file(folder: Path) -> int:
    """Every file under a final name is whole; returns how many there are."""
    final = final_files(folder)
    for path in final:
        try:
            check_whole(path)
        except FileNotFoundError:
            pass  # an orphaned job's run removes what it makes anew
        except Exception as error:
            raise AssertionError(f"{path} is not whole") from error
    return len(final)


def jobs(run: subprocess.Popen) -> list[psutil.Process]:
    """The commands of the package that a workflow runs now."""
    try:
        below = psutil.Process(run.pid).children(recursive=True)
        return [process for process in below if any(word.startswith("fgg.") for word in process.cmdline())]
    except psutil.Error:
        return []


def ended(run: subprocess.Popen) -> bool:
    return run.poll() is not None


def wait_for_a_job(run: subprocess.Popen, folder: Path, least: int = 0) -> bool:
    """Wait until a job runs and a number of files is finished; False when the run ended before."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if len(final_files(folder)) >= least and jobs(run):
            return True
        if ended(run):
            return False
        time.sleep(0.05)
    raise AssertionError("nothing happened")


def kill(kind: str, run: subprocess.Popen, found: list[psutil.Process], draw: random.Random) -> bool:
    """Kill a job, the workflow alone, or all of it; False if it had just ended by itself."""
    try:
        if kind == "job":
            draw.choice(found).kill()
            return True
        run.kill() if kind == "workflow" else os.killpg(run.pid, signal.SIGKILL)
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
    return run.wait() == -signal.SIGKILL


# ---- the tests


def test_killed_at_random_moments_the_plain_command_finishes_with_the_same_bytes(folder, tmp_path_factory):
    reference = tmp_path_factory.mktemp("undisturbed")
    (reference / "pictures").symlink_to(folder / "pictures")
    one_process.run(planned(reference).values(), reference)
    expected = files(reference)
    draw = random.Random(SEED)
    kinds, moments = draw.sample(KILLS, len(KILLS)), sorted(draw.randint(0, MOST_FILES) for _ in KILLS)
    orphans, survived, run = [], [], None
    for kind, moment in zip(kinds, moments, strict=True):
        # A moment is a number of finished files, and a short while more.
        killed = False
        while not killed:
            if run is None or ended(run):
                assert run is None or run.returncode, f"finished after {len(survived)} kills"
                run = start(folder, TARGET)
            if not wait_for_a_job(run, folder, moment):
                continue
            time.sleep(draw.uniform(0, 2))
            found = jobs(run)
            killed = bool(found) and not ended(run) and kill(kind, run, found, draw)
        orphans += found * (kind == "workflow")
        survived.append(check_no_partial_file(folder))
    run.wait(PATIENCE)
    last = start(folder, TARGET)
    assert last.wait(PATIENCE) == 0, (folder / "said.txt").read_text()[-6000:]
    psutil.wait_procs(orphans, timeout=PATIENCE)
    assert not [process for process in orphans if process.is_running()]
    assert survived[0] < 5 and survived[-1] > 12, "the kills must be spread over the run"
    found = files(folder)
    assert set(found) == set(expected), "nothing is missing, and no leftover of a killed job stays"
    assert not [name for name in expected if found[name] != expected[name]]
    assert "Traceback" not in (folder / "said.txt").read_text()


def test_the_second_of_two_runs_is_told_and_nothing_is_corrupted(folder):
    target = "data/models/tiny/model.json"
    first = start(folder, target)
    assert wait_for_a_job(first, folder)
    (folder / "said.txt").unlink()
    second, third = start(folder, target), start(folder, target)
    codes = [run.wait(PATIENCE) for run in (first, second, third)]
    assert codes[0] == 0 and all(codes[1:]), (folder / "said.txt").read_text()
    said = (folder / "said.txt").read_text()
    assert f"another run (process {first.pid} on" in said
    assert said.count("wait until it has ended, or give this one a folder of its own with --directory") == 2
    assert "Traceback" not in said
    assert check_no_partial_file(folder) == 6
    again = start(folder, target)
    assert again.wait(PATIENCE) == 0 and (folder / "said.txt").read_text().count("Nothing to be done") == 1


def test_of_two_runs_started_in_the_same_moment_one_works(folder):
    target = "data/prepared/tiny/dataset.json"
    runs = [start(folder, target) for _ in range(2)]
    codes = [run.wait(PATIENCE) for run in runs]
    said = (folder / "said.txt").read_text()
    assert 0 in codes and "Traceback" not in said
    assert said.count("Finished jobid") == 1, "the job ran once"
    assert any(codes) or "Nothing to be done" in said
    assert check_no_partial_file(folder) == 4
