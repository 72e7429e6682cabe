"""A full disk, a folder that cannot be written, an input that vanishes, too little memory: told, and nothing is lost."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from small_workflow import ROOT, file_system, run, start

from fgg.jobs.command import command
from fgg.pipeline.runs import advice
from fgg.tables import atomic, write_csv, write_json, write_table

COMMANDS = ["prepare/tiny", "model/tiny", "sae/tiny/layer_0", "attribution/tiny/transmm", "responses/tiny"]
COMMANDS += ["faithfulness/tiny/transmm", "comparison", "figures/tiny", "summary"]


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """An empty file system of half a megabyte."""
    with file_system(tmp_path / "disk", "size=512k") as place:
        yield place


def fill(place: Path) -> None:
    """Leave no byte."""
    with pytest.raises(OSError, match="No space"), (place / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def left(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def to(output: Path, arguments: list[str]) -> list[str]:
    """The arguments, with everything written below ``output``."""
    arguments = list(arguments)
    for option in ("--output", "--relevance", "--gates"):
        if option in arguments:
            place = arguments.index(option) + 1
            arguments[place] = str(output / arguments[place])
    return arguments


# ---- the disk


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_told_and_what_was_there_stays(name, finished, disk, capsys, monkeypatch):
    folder, commands = finished
    monkeypatch.chdir(folder)
    module, *arguments = commands[name]
    (disk / "kept.csv").write_text("finished\n")
    fill(disk)
    before = left(disk)
    status = run(module, *to(disk, arguments))
    said = capsys.readouterr().err
    assert status == 1 and "Traceback" not in said
    assert "disk" in said and ("free some space" in said or "is full" in said), said
    assert left(disk) == before


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_cannot_be_written_is_told(name, finished, disk, capsys, monkeypatch):
    folder, commands = finished
    monkeypatch.chdir(folder)
    module, *arguments = commands[name]
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    status = run(module, *to(disk, arguments))
    said = capsys.readouterr().err
    assert status == 1 and "Traceback" not in said
    assert "no permission to use" in said and "--directory" in said


@pytest.mark.parametrize("kind", ["parquet", "json", "csv", "bytes"])
def test_a_disk_that_fills_while_a_file_is_written(kind, disk, capsys):
    target = disk / f"big.{kind}"
    target.write_text("the one before")
    noise = np.random.default_rng(0)

    @command
    def main(argv=None):
        """Write more than the disk holds."""
        if kind == "parquet":
            write_table(target, {"x": noise.random(200_000)}, {})
        elif kind == "json":
            write_json(target, {"x": noise.random(50_000).tolist()}, {})
        elif kind == "csv":
            import pandas as pd

            write_csv(target, pd.DataFrame({"x": noise.random(50_000)}))
        else:
            with atomic(target) as temporary:
                temporary.write_bytes(noise.bytes(2**20))

    assert main([]) == 1
    assert capsys.readouterr().err == (
        f"error: no space left on the disk while writing {target}; free some space and run the same command again\n"
    )
    assert left(disk) == {target.name: b"the one before"}


def test_the_workflow_on_a_disk_that_fills_keeps_what_is_finished_and_goes_on(folder, disk):
    """The prepared images fit, then the disk fills up; with room again, the plain command goes on."""
    (disk / "pictures").symlink_to(folder / "pictures")
    subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
    said = folder / "said.txt"

    def attempt() -> int:
        return start(disk, "results/tiny/responses.parquet", said=said).wait(240)

    first = start(disk, "data/prepared/tiny/dataset.json", said=said)
    assert first.wait(240) == 0, said.read_text()[-3000:]
    kept = left(disk / "data")
    with (disk / "filler").open("wb") as file:
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        file.write(bytes(free - 60_000))  # for Snakemake's own records, not for a model
    assert attempt() == 1
    text = said.read_text()
    assert "no space left on the disk while writing" in text or "check whether the disk is full" in text, text[-3000:]
    assert "the same command goes on" in text and "Traceback" not in text
    assert left(disk / "data") == kept
    (disk / "filler").unlink()
    assert attempt() == 0, said.read_text()[-3000:]
    assert {name: data for name, data in left(disk / "data").items() if name in kept} == kept


def test_the_workflow_in_a_folder_that_cannot_be_written_is_told(folder, disk):
    (disk / "pictures").symlink_to(folder / "pictures")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    said = folder / "said.txt"
    assert start(disk, "results/summary.csv", said=said).wait(240) == 1
    assert "nothing can be written to" in said.read_text() and "--directory" in said.read_text()
    assert "Traceback" not in said.read_text()


# ---- inputs that vanish


def test_an_input_that_vanishes_while_the_workflow_plans_is_told(folder):
    shutil.rmtree(folder / "pictures")
    assert start(folder, "results/summary.csv").wait(240) == 1
    said = (folder / "said.txt").read_text()
    assert "datasets.tiny.path: pictures does not exist" in said and "Traceback" not in said


# ---- memory


def test_a_command_that_may_not_have_more_memory_says_so(copy):
    """Really too little: the address space ends a little above what the start of the command takes."""
    folder, commands = copy
    arguments = commands["attribution/tiny/transmm"][1:]
    limited = (
        "import resource, sys, torch; import fgg.attribution.attributor as job; import fgg.attribution.__main__ as command;"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, used + 2**20));"
        "real = job.model_files.load;"
        "job.model_files.load = lambda *given: (torch.empty(2**28), real(*given))[1];"
        "sys.exit(command.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert done.stderr.startswith("error: out of memory; set a smaller `batch_size`, run fewer jobs at once (--cores)")


@pytest.mark.parametrize(
    "want",
    [
        lambda: torch.empty(2**50),
        lambda: np.empty(2**50),
        lambda: bytearray(2**60),
        lambda: pq.read_table(_fails(MemoryError())),
        lambda: _fails(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")),
    ],
    ids=["torch", "numpy", "python", "arrow", "gpu"],
)
def test_every_library_s_want_of_memory_is_understood(want, capsys):
    @command
    def main(argv=None):
        """Want too much."""
        want()

    assert main([]) == 1
    assert capsys.readouterr().err.startswith("error: out of memory; set a smaller `batch_size`")


def _fails(error):
    raise error


def test_a_file_larger_than_the_limit_is_told(tmp_path):
    code = "import sys; from fgg.jobs.command import command; from fgg.tables import write_table; import numpy as np\n"
    code += "sys.exit(command(lambda argv: write_table(sys.argv[1], {'x': np.random.rand(10**5)}, {}))([]))"

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "t.parquet")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path}/t.parquet exceeds the maximum size of a file")
    assert not list(tmp_path.iterdir())


def test_jobs_that_were_killed_are_named_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ("killed", ""),
        ("cut", "attribution: 12 images\n"),
        ("told", "error: x is damaged; delete it\n"),
    ):
        Path(f"{name}.log").write_text(text)
    lines = [
        f"    log: {name}.log (check log file(s) for error details)\n" for name in ("killed", "cut", "told", "cut")
    ]
    Path("snakemake.log").write_text("Error in rule x:\n".join(lines))
    said = advice(["snakemake.log"])
    assert "Killed from outside, most often because the memory ran out: killed.log, cut.log. " in said
    assert "(--cores)" in said and "told.log" not in said
    assert "Killed" not in advice([]) and "the same command goes on" in advice("none.log")
