"""``fgg run``: start the workflow from any folder. Thin over Snakemake, which gets all options that are not named here."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fgg.errors import FggError

ROOT = Path(__file__).resolve().parents[2]
TARGET = "results/summary.csv"
VALUED = ("--config", "--directory", "--cores", "--gpus")  # options of `fgg run` itself
ABOUT = """Run the workflow: prepare data, train, explain, score and compare, as far as that is not done.

data/, results/ and logs/ are made in the current folder, or in --directory. The same command goes on after an interruption.
Options that are not named here go to Snakemake, such as -n for a dry run."""
EXAMPLES = """examples:
  fgg run                                   the default study, on all cores
  fgg run --config mine.yaml --cores 4      with own settings
  fgg run --directory /scratch/mine -n      what would run there
  fgg run results/README.md --gpus 2        another target, two GPU jobs at once
"""


def add_run(parts: argparse._SubParsersAction) -> None:
    """Add ``run`` to the commands."""
    part = parts.add_parser(
        "run", help="run the workflow, in this folder or another", description=ABOUT, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter, usage="fgg run [TARGET …] [options] [options for Snakemake]",
    )  # fmt: skip
    part.add_argument("targets", nargs="*", metavar="TARGET", help=f"files to make (default: {TARGET})")
    part.add_argument("--config", action="append", default=[], type=Path, metavar="FILE",
                      help="YAML file of settings over the defaults; may be repeated, the last one wins")  # fmt: skip
    part.add_argument("--directory", type=Path, metavar="DIR", help="folder to work in (default: the current one)")
    part.add_argument("--cores", default="all", metavar="N", help="jobs at once (default: all cores)")
    part.add_argument("--gpus", type=int, metavar="N", help="jobs on GPUs at once, one GPU each (default: 1)")


def own_words(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command line that `add_run` knows, and those for Snakemake: from the first other option on."""
    own: list[str] = []
    rest: list[str] = []
    left = list(given)
    while left:
        word = left.pop(0)
        if word.partition("=")[0] in VALUED:
            own += [word] if "=" in word or not left else [word, left.pop(0)]
        elif word in ("-h", "--help") or not (rest or word.startswith("-")):
            own.append(word)
        else:
            rest.append(word)
    return own, rest


def words(arguments: argparse.Namespace, rest: Sequence[str]) -> list[str]:
    """The command line of Snakemake.

    Args:
        arguments: those of `add_run`.
        rest: options for Snakemake.

    Raises:
        FggError: the workflow is not beside the package, or a value does not fit.
    """
    snakefile = ROOT / "Snakefile"
    if not snakefile.is_file():
        raise FggError(
            f"the workflow is not installed beside the package (there is no {snakefile}); run `fgg run` from an environment "
            "in which a clone of the repository is installed with pip install --editable"
        )
    if arguments.cores != "all" and not (arguments.cores.isdigit() and int(arguments.cores)):
        raise FggError(f"--cores {arguments.cores}: give a whole number of at least 1, or all")
    if arguments.gpus is not None and arguments.gpus < 1:
        raise FggError(f"--gpus {arguments.gpus}: give a whole number of at least 1; for the CPU, set `device: cpu`")
    found = [sys.executable, "-m", "snakemake", *(arguments.targets or [TARGET])]
    found += ["--snakefile", str(snakefile), "--cores", arguments.cores]
    found += [f"--resources=gpu={arguments.gpus}"] if arguments.gpus else []
    found += ["--directory", str(arguments.directory)] if arguments.directory else []
    found += [*rest]
    return found + (["--configfile", *map(str, arguments.config)] if arguments.config else [])


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Run Snakemake; returns its exit status."""
    command = words(arguments, rest)
    for path in arguments.config:
        if not path.is_file():
            raise FggError(f"--config {path} does not exist (seen from {Path.cwd()}); check the path")
    return subprocess.run(command, env=os.environ, check=False).returncode
