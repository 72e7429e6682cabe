"""``fgg run`` starts Snakemake with this repository's workflow, from any folder."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fgg import cli
from fgg.pipeline import start
from fgg.pipeline.workflow_files import PACKAGE


@pytest.fixture
def started(monkeypatch):
    """The command lines that the process would have become."""
    lines = []
    monkeypatch.setattr(start.os, "execve", lambda program, command, environment: lines.append(command))
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
            str(start.SNAKEFILE),
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


def test_it_ends_as_snakemake_does_and_gets_the_signals(tmp_path):
    """The process itself becomes Snakemake: none stands between it and who stops it."""
    (tmp_path / "snakemake").mkdir()
    (tmp_path / "snakemake" / "__init__.py").touch()
    (tmp_path / "snakemake" / "__main__.py").write_text("import os, sys\nprint(os.getpid())\nsys.exit(3)\n")
    words = [sys.executable, "-m", "fgg", "run"]
    environment = start.os.environ | {"PYTHONPATH": f"{tmp_path}{start.os.pathsep}{PACKAGE.parent}"}
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        said, _ = process.communicate()
    assert process.returncode == 3 and said.split()[-1] == str(process.pid)


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
    monkeypatch.setattr(start, "SNAKEFILE", tmp_path / "Snakefile")
    assert call() == 1
    assert "the workflow is not installed with the package" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--directory", "there"]], ids=["current", "directory"])
def test_a_folder_with_another_copy_of_the_package_is_refused(started, monkeypatch, tmp_path, capsys, words):
    own = tmp_path.joinpath(*words[1:], "fgg")
    own.mkdir(parents=True)
    (own / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    assert call(*words) == 1
    assert not started and "has a package fgg of its own" in capsys.readouterr().err


def test_other_commands_refuse_unknown_options(capsys):
    with pytest.raises(SystemExit):
        cli.main(["methods", "--cores", "2"])
    assert "unrecognized arguments: --cores 2" in capsys.readouterr().err


def test_a_dry_run_from_another_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fgg", "run", "-n", "--quiet", "rules"],
        cwd=tmp_path, env=start.os.environ | {"PYTHONPATH": str(PACKAGE.parent)}, capture_output=True, text=True, check=False,
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
