"""Slurm without accounting is noticed before a run, which would wait for ever; with pretended commands of Slurm."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from fgg.pipeline import slurm

WORKS = "exit 0"
DISABLED = "echo 'Slurm accounting storage is disabled' >&2; exit 1"


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A function: name -> shell line, for the only commands that are found."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def make(**lines: str) -> None:
        for name, line in lines.items():
            Path(tmp_path, name).write_text(f"#!/bin/sh\n{line}\n")
            Path(tmp_path, name).chmod(0o755)

    return make


def age(seconds: int | str) -> str:
    return f"echo 'KillWait = 30 sec'; echo 'MinJobAge               = {seconds} sec'"


def test_where_sacct_works_it_is_asked(commands, capsys):
    commands(sinfo=WORKS, squeue=WORKS, sacct=WORKS)
    assert slurm.status_command() == "sacct"
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("sacct", "reason"),
    [(DISABLED, "Slurm accounting storage is disabled"), ("exit 3", "exit status 3"), (None, "not installed")],
    ids=["disabled", "silent", "none"],
)
@pytest.mark.parametrize(
    "scontrol",
    [age(300), age(slurm.LEAST_AGE), age(0), "exit 1", None],
    ids=["300", "120", "for ever", "fails", "none"],
)
def test_without_accounting_squeue_is_asked_and_told(sacct, reason, scontrol, commands, capsys):
    commands(
        sinfo=WORKS, squeue=WORKS, **({"sacct": sacct} if sacct else {}), **({"scontrol": scontrol} if scontrol else {})
    )
    assert slurm.status_command() == "squeue"
    assert f"(sacct: {reason}); squeue tells their state" in capsys.readouterr().err


def test_a_sacct_that_does_not_answer_is_not_waited_for(commands, capsys, monkeypatch):
    monkeypatch.setattr(slurm, "PATIENCE", 0.2)
    commands(sinfo=WORKS, squeue=WORKS, sacct="while :; do :; done")
    assert slurm.status_command() == "squeue"
    assert "no answer within 0.2 s" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", [2, slurm.LEAST_AGE - 1])
def test_without_accounting_and_memory_no_run_starts(seconds, commands):
    commands(sinfo=WORKS, squeue=WORKS, sacct=DISABLED, scontrol=age(seconds))
    with pytest.raises(SystemExit, match=rf"error: .*MinJobAge of {seconds} s.*MinJobAge of 120 s or more"):
        slurm.status_command()


@pytest.mark.parametrize("executor", [None, "local", "dryrun", "cluster-generic"])
def test_other_executors_ask_no_slurm(executor, commands):
    commands(sinfo=WORKS, squeue=WORKS, sacct=DISABLED, scontrol=age(2))
    assert slurm.status_command(argparse.Namespace(executor=executor)) is None


def test_where_there_is_no_slurm_snakemake_says_so(commands):
    assert slurm.status_command() is None
