"""Whether Slurm tells the end of jobs. Does not import torch."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys

PATIENCE = 30  # seconds
LEAST_AGE = 120  # seconds for which Slurm must remember an ended job, or `squeue` misses it (three queries)


def status_command(given: argparse.Namespace | None = None) -> str | None:
    """The command by which Snakemake asks for the state of jobs; None leaves the choice to Snakemake.

    Without accounting, ``sacct`` exists and fails, and Snakemake would wait for ever after the first job. Ends the process
    with one message if ``squeue`` could not tell either.

    Args:
        given: Snakemake's parsed command line, where it decides whether the jobs go to Slurm.
    """
    if given is not None and given.executor != "slurm":
        return None
    if shutil.which("sinfo") is None or shutil.which("squeue") is None:
        return None  # no Slurm: Snakemake says so
    reason = _failure("sacct", "--noheader", "--allocations", "--format=JobID")
    if not reason:
        return "sacct"
    age, unknown = _age_of_ended_jobs()
    if age is not None and 0 < age < LEAST_AGE:  # 0: for ever
        sys.exit(
            f"error: Slurm keeps no accounts of jobs here (sacct: {reason}), and with its MinJobAge of {age} s squeue may miss "
            f"the end of a job; ask for accounting, or for a MinJobAge of {LEAST_AGE} s or more"
        )
    more = f", but for how long is not known (scontrol: {unknown})" if unknown else ""
    print(
        f"note: Slurm keeps no accounts of jobs here (sacct: {reason}); squeue tells their state{more}", file=sys.stderr
    )
    return "squeue"


def _failure(*command: str) -> str:
    """Why a command fails; empty if it does not."""
    if shutil.which(command[0]) is None:
        return "not installed"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {PATIENCE} s"
    except OSError as error:
        return error.strerror or "cannot be started"
    return (" ".join(done.stderr.split()) or f"exit status {done.returncode}")[:200] if done.returncode else ""


def _age_of_ended_jobs() -> tuple[int | None, str]:
    """For how many seconds Slurm remembers an ended job, and why that is not known."""
    try:
        done = subprocess.run(
            ["scontrol", "show", "config"], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer within {PATIENCE} s"
    except OSError as error:
        return None, error.strerror or "cannot be started"
    found = re.search(r"^\s*MinJobAge\s*=\s*(\d+)", done.stdout, re.MULTILINE)
    return (int(found[1]), "") if found else (None, f"exit status {done.returncode}, no MinJobAge")
