"""Jobs that share the work: the same bytes as alone, nothing twice, and what a killed job has finished is kept."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from fgg.checksums import checksum
from fgg.errors import FggError
from fgg.jobs import shared_work
from fgg.jobs.shared_work import FOLDER, Task, cut, fulfil
from fgg.tables import read_made_from, read_settings, read_table


class Worker:
    """Gives each image its number times the task's factor; notes who computed what."""

    def __init__(self, notes: Path, tasks, images=23, batch=2, delay=0.0, fail="", together=True) -> None:
        self.images, self.batch, self.together = images, batch, together
        self.notes, self.delay, self.fail = notes, delay, fail

    def compute(self, piece, tasks):
        time.sleep(self.delay)
        found = {}
        for task in tasks:
            if task.what == self.fail:
                continue
            with self.notes.open("a") as file:
                file.write(f"{task.what} {piece.start} {os.getpid()}\n")
            numbers = np.arange(piece.start, piece.stop)
            found[task.key] = {
                "table": {"image_id": [f"i{n:03}" for n in numbers], "value": numbers * task.settings["factor"]},
                "more": {"image_id": [f"i{n:03}" for n in numbers], "rows": np.ones((len(numbers), 3), np.float32)},
            }
        return found


def task(folder: Path, factor: int) -> Task:
    outputs = {"table": folder / f"{factor}.parquet", "more": folder / f"{factor}-more.parquet"}
    return Task(f"task{factor}", outputs, {"factor": factor}, {"code": "abc"})


def run(folder: Path, factor: int, others=(), **options) -> None:
    own = task(folder, factor)
    companions = [task(folder, other) for other in others if not task(folder, other).done]
    fulfil(own, "group", lambda: companions, lambda tasks: Worker(folder / "notes", tasks, **options))


def notes(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "notes").read_text().splitlines()]


@pytest.fixture
def alone(tmp_path) -> dict[int, bytes]:
    """What jobs write that share nothing."""
    folder = tmp_path / "alone"
    folder.mkdir()
    for factor in (1, 2, 3):
        run(folder, factor)
    return {factor: (folder / f"{factor}.parquet").read_bytes() for factor in (1, 2, 3)}


@pytest.fixture
def shared(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path / "shared"))
    folder = tmp_path / "together"
    folder.mkdir()
    return folder


def test_pieces_are_whole_batches():
    for images, batch in ((0, 4), (1, 4), (23, 2), (1000, 7), (50_000, 64)):
        pieces = cut(images, batch)
        assert [n for piece in pieces for n in range(piece.start, piece.stop)] == list(range(images))
        assert len(pieces) <= shared_work.PIECES and all(piece.start % batch == 0 for piece in pieces)


def test_one_job_computes_for_all_and_the_others_only_put_together(alone, shared):
    run(shared, 1, (2, 3))
    computed = notes(shared)
    assert len(computed) == 3 * len(cut(23, 2))
    run(shared, 2, (1, 3), fail="task2")  # there is nothing to compute, so nothing can fail
    run(shared, 3, (1, 2), fail="task3")
    assert notes(shared) == computed
    assert {factor: (shared / f"{factor}.parquet").read_bytes() for factor in (1, 2, 3)} == alone
    assert read_settings(shared / "2.parquet") == {"factor": 2}
    assert read_made_from(shared / "2.parquet") == {"code": "abc", "key": task(shared, 2).key}
    assert not [place for place in (shared.parent / "shared" / "group").iterdir() if place.is_dir()], "pieces go"


def test_pieces_stay_until_all_tasks_of_the_same_numbers_are_done(alone, shared):
    """Such as TransMM's maps for every seed of the SAE: the first job must not take the pieces from the others."""
    first = task(shared, 1)
    second = Task(
        first.what, {name: shared / f"second-{name}" for name in first.outputs}, first.settings, first.made_from
    )
    assert first.key == second.key
    for own, computes in ((first, True), (second, False)):
        before = len(notes(shared)) if (shared / "notes").exists() else 0
        fulfil(own, "group", tuple, lambda tasks: Worker(shared / "notes", tasks), lambda: [first, second])
        assert (len(notes(shared)) > before) == computes
        left = [place for place in (shared.parent / "shared" / "group").iterdir() if place.is_dir()]
        assert bool(left) == (own is first)
    assert (shared / "second-table").read_bytes() == alone[1]


def test_what_others_cannot_compute_is_left_to_its_own_job(alone, shared):
    run(shared, 1, (2, 3), fail="task2")
    assert {name for name, _, _ in notes(shared)} == {"task1", "task3"}
    run(shared, 2, (1, 3))
    assert (shared / "2.parquet").read_bytes() == alone[2]


def test_a_finished_task_is_known_by_what_it_was_made_from(shared):
    run(shared, 1)
    own = task(shared, 1)
    assert own.done
    other = Task(own.what, own.outputs, own.settings, {"code": "other"})
    assert not other.done and other.key != own.key
    assert not Task(own.what, own.outputs, {"factor": 9}, own.made_from).done
    own.outputs["more"].unlink()
    assert not own.done


@pytest.mark.parametrize("together", [True, False])
def test_jobs_side_by_side_do_nothing_twice(alone, shared, together):
    options = {"delay": 0.02, "together": together}
    workers = [
        multiprocessing.get_context("fork").Process(target=run, args=(shared, f, (1, 2, 3)), kwargs=options)
        for f in (1, 2, 3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    done = [(name, start) for name, start, _ in notes(shared)]
    assert len(done) == len(set(done)) == 3 * len(cut(23, 2))
    assert len({process for _, _, process in notes(shared)}) > 1, "they shared the work"
    assert {factor: (shared / f"{factor}.parquet").read_bytes() for factor in (1, 2, 3)} == alone


def test_a_killed_job_loses_its_piece_alone(alone, shared):
    worker = multiprocessing.get_context("fork").Process(target=run, args=(shared, 1, (2,)), kwargs={"delay": 0.1})
    worker.start()
    while not (shared / "notes").exists() or len(notes(shared)) < 6:
        time.sleep(0.01)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    before = notes(shared)
    run(shared, 2, (1,))
    run(shared, 1, (2,))
    again = [own[:2] for own in notes(shared)]
    assert len(again) - len({tuple(own) for own in again}) <= 2, "at most the piece that was being written"
    assert len(before) >= 6
    assert {factor: (shared / f"{factor}.parquet").read_bytes() for factor in (1, 2)} == {f: alone[f] for f in (1, 2)}


def test_no_images(shared):
    run(shared, 1, images=0)
    assert len(read_table(shared / "1.parquet")) == 0 and task(shared, 1).done


def test_checksums_follow_the_content(shared, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"one")
    first = checksum(file)
    assert first == checksum(file)
    file.write_bytes(b"three")
    assert checksum(file) != first
    with pytest.raises(FggError, match="does not exist; check the path, or run the workflow"):
        checksum(tmp_path / "none")
