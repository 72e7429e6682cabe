"""How the tests run the workflow: as a user does, by ``python -m snakemake``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def command(folder: Path, *arguments: str, configs: Sequence[Path], code: Path = ROOT) -> list[str]:
    """What is run in a folder. The arguments go before --configfile, which takes a list."""
    start = [sys.executable, "-m", "snakemake", "--snakefile", str(code / "Snakefile"), "--directory", str(folder)]
    return [*start, *arguments, "--configfile", *map(str, configs)]


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment, offline unless the changes say otherwise."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", **(changes or {})}


def snakemake(
    folder: Path,
    *arguments: str,
    configs: Sequence[Path],
    code: Path = ROOT,
    check: bool = True,
    changes: Mapping[str, str] | None = None,
    warm: bool = False,
) -> str:
    """Run the workflow in a folder; all that it says.

    Args:
        check: whether it must end well, or must not.
        changes: to the environment.
        warm: fork all processes from one that has imported the libraries (`warm_python`); else each is a new interpreter.
    """
    surroundings = environment(changes)
    if warm:
        from warm_python import warmed

        surroundings = warmed(surroundings)
    done = subprocess.run(
        command(folder, *arguments, configs=configs, code=code),
        cwd=code,
        env=surroundings,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert check == (done.returncode == 0), said[-6000:]
    return said
