"""A short round of kills at random moments; and two runs at once in one folder."""

from __future__ import annotations

import random
import subprocess
import time

import one_process
import psutil
import pytest
from small_workflow import SMALL, planned, start

from tests.kills.files import check_no_partial_file, content
from tests.kills.harness import Harness

pytestmark = pytest.mark.dag
SEED, KILLS, EVERY = 10, 3, 1.0  # mean number of seconds until the next kill
SAE, TABLES = "data/saes/tiny/layer_0/metrics.json", "results/comparison.parquet"
PATIENCE = 240  # seconds for anything that must end; reached only where something hangs


def jobs(run: subprocess.Popen) -> list[psutil.Process]:
    """The commands of the package that a workflow runs now."""
    try:
        below = psutil.Process(run.pid).children(recursive=True)
        return [process for process in below if any(word.startswith("fgg.") for word in process.cmdline())]
    except psutil.Error:
        return []


def ended(run: subprocess.Popen) -> bool:
    return run.poll() is not None


def wait_for_a_job(run: subprocess.Popen) -> bool:
    """Wait until a job runs; False when the run ended before."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if jobs(run):
            return True
        if ended(run):
            return False
        time.sleep(0.05)
    raise AssertionError("nothing happened")


def test_killed_at_random_moments_the_plain_command_finishes_with_the_same_bytes(folder, tmp_path_factory):
    """As ``python -m tests.kills``, up to the SAE and then up to the tables: 1, 2 or 4 cores, against one process."""
    reference = tmp_path_factory.mktemp("undisturbed")
    (reference / "pictures").symlink_to(folder / "pictures")
    one_process.run(planned(reference, TABLES).values(), reference)
    whole, draw = content(reference), random.Random(SEED)
    trained = {name: own for name, own in whole.items() if name.startswith("data/")}
    for target, expected in ((SAE, trained), (TABLES, whole)):
        harness = Harness(folder, [SMALL], expected, draw, target=target, every=EVERY)
        harness.go(KILLS)
        assert len(harness.kills) == KILLS and harness.completed, harness.summary()


def test_the_second_of_two_runs_is_told_and_nothing_is_corrupted(folder):
    target = "data/models/tiny/model.json"
    first = start(folder, target)
    assert wait_for_a_job(first)
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
