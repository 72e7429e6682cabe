"""What a command says when something is wrong: one clear message for what the user can mend, else a traceback."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fgg.errors import FggError
from fgg.jobs.command import command

ROOT = Path(__file__).parents[1]


def failing(error):
    @command
    def main(argv=None):
        """Fail."""
        raise error

    return main


def test_success_returns_0_and_passes_the_arguments(capsys):
    seen = []

    @command
    def main(argv=None):
        """Remember."""
        seen.append(argv)
        return "ignored"

    assert main(["--x"]) == 0 and main() == 0
    assert seen == [["--x"], None]
    assert capsys.readouterr() == ("", "")
    assert main.__name__ == "main" and main.__doc__ == "Remember."


def test_a_job_tells_what_its_start_cost(capsys, monkeypatch):
    monkeypatch.setenv("FGG_TIMING", "1")

    @command
    def main(argv=None):
        """Idle."""

    assert main([]) == 0
    start, whole = re.fullmatch(r"start-up took ([\d.]+) s of ([\d.]+) s\n", capsys.readouterr().out).groups()
    assert 0 < float(start) <= float(whole)


def test_an_fgg_error_is_one_line(capsys):
    assert failing(FggError("x.json is damaged; delete it"))([]) == 1
    assert capsys.readouterr() == ("", "error: x.json is damaged; delete it\n")


@pytest.mark.parametrize(
    ("number", "parts"),
    [
        (errno.ENOSPC, ["no space left on the disk while writing results/t.parquet", "same command again"]),
        (errno.EDQUOT, ["no space left on the disk while writing results/t.parquet"]),
        (errno.EACCES, ["no permission to use results/t.parquet", "--directory"]),
        (errno.EPERM, ["no permission to use results/t.parquet"]),
        (errno.EROFS, ["no permission to use results/t.parquet"]),
        (errno.ENOENT, ["results/t.parquet does not exist", "check the path"]),
    ],
)
def test_errors_of_the_system_are_explained(capsys, number, parts):
    assert failing(OSError(number, os.strerror(number), "results/t.parquet"))([]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert all(part in err for part in parts), err


def test_a_full_disk_without_a_file_name(capsys):
    assert failing(OSError(errno.ENOSPC, "Error writing bytes to file"))([]) == 1
    assert "no space left on the disk while writing the output folder" in capsys.readouterr().err


def test_out_of_memory(capsys):
    assert failing(MemoryError())([]) == 1
    assert "out of memory; set a smaller `batch_size`" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [ValueError("a bug"), KeyError("x"), OSError("no number"), OSError(errno.ECONNRESET, "reset"), RuntimeError()],
    ids=repr,
)
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(type(error)) as caught:
        failing(error)([])
    assert caught.value is error
    assert caught.traceback[-1].name in ("main", "_explain") and any(e.name == "main" for e in caught.traceback)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(2)], ids=repr)
def test_leaving_is_not_an_error(error):
    with pytest.raises(type(error)):
        failing(error)([])


def test_a_real_command_ends_with_1_and_one_line(tmp_path):
    arguments = [str(tmp_path / "none.parquet"), "--output", "z"]
    done = subprocess.run(
        [sys.executable, "-m", "fgg.jobs.merge", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"error: {tmp_path / 'none.parquet'} does not exist; run the workflow to make it\n"
