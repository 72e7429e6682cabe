"""``fgg run`` starts Snakemake with this repository's workflow, from any folder."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fgg import cli
from fgg.pipeline import start


@pytest.fixture
def started(monkeypatch):
    """The command lines that would have been started; they end with status 3 where ``fail`` is asked for."""
    lines = []

    def run(command, **_):
        lines.append(command)
        return subprocess.CompletedProcess(command, 3 if "fail" in command else 0)

    monkeypatch.setattr(start.subprocess, "run", run)
    return lines


def call(*words: str) -> int:
    try:
        return cli.main(["run", *words])
    except SystemExit as ended:
        return ended.code


def test_the_default(started):
    assert call() == 0
    assert started == [
        [
            sys.executable,
            "-m",
            "snakemake",
            "results/summary.csv",
            "--snakefile",
            str(start.ROOT / "Snakefile"),
            "--cores",
            "all",
        ]
    ]


def test_all_options(started, tmp_path):
    (tmp_path / "mine.yaml").write_text("seed: 1\n")
    config = str(tmp_path / "mine.yaml")
    options = [
        "--config",
        config,
        "--cores",
        "4",
        "--gpus",
        "2",
        "--directory",
        str(tmp_path),
        "-n",
        "--quiet",
        "rules",
    ]
    assert call("results/README.md", *options) == 0
    (line,) = started
    assert line[3] == "results/README.md" and line[-2:] == ["--configfile", config]
    assert {"--resources=gpu=2", "-n", "--quiet", str(tmp_path)} <= set(line)
    assert line[line.index("--cores") + 1] == "4"


def test_the_status_is_passed_on(started):
    assert call("fail") == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "none.yaml"], "--config none.yaml does not exist"),
        (["--cores", "0"], "--cores 0: give a whole number"),
        (["--cores", "many"], "--cores many: give a whole number"),
        (["--gpus", "0"], "--gpus 0: give a whole number"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_one_message(started, capsys, words, message):
    assert call(*words) == 1
    assert not started and f"error: {message}" in capsys.readouterr().err


def test_a_package_without_its_workflow_says_so(started, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(start, "ROOT", tmp_path)
    assert call() == 1
    assert "the workflow is not installed beside the package" in capsys.readouterr().err


def test_other_commands_refuse_unknown_options(capsys):
    with pytest.raises(SystemExit):
        cli.main(["methods", "--cores", "2"])
    assert "unrecognized arguments: --cores 2" in capsys.readouterr().err


def test_a_dry_run_from_another_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fgg", "run", "-n", "--quiet", "rules"],
        cwd=tmp_path, env=start.os.environ | {"PYTHONPATH": str(start.ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "comparison" in done.stdout + done.stderr and "prepare" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("given", "own", "rest"),
    [
        ("run", "run", ""),
        ("run a b --cores 2 -n --quiet rules", "run a b --cores 2", "-n --quiet rules"),
        (
            "run -n --quiet rules --cores=2 --config x.yaml more",
            "run --cores=2 --config x.yaml",
            "-n --quiet rules more",
        ),
        ("run --config", "run --config", ""),
        ("run -n --help", "run --help", "-n"),
    ],
)
def test_words_for_snakemake_are_told_apart(given, own, rest):
    assert start.own_words(given.split()) == (own.split(), rest.split())
