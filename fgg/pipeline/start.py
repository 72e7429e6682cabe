"""``fgg run``: start the workflow from any folder. Thin over Snakemake, which gets all options that are not named here."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from fgg.errors import FggError
from fgg.pipeline.workflow_files import SNAKEFILE, check_no_other_package

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
        FggError: the package was installed without the workflow, the folder holds another copy of the package, or a value
            does not fit.
    """
    if not SNAKEFILE.is_file():
        raise FggError(
            f"the workflow is not installed with the package (there is no {SNAKEFILE}); install the wheel that `make dist` "
            "builds, or a clone of the repository with pip install --editable"
        )
    check_no_other_package([Path.cwd(), arguments.directory or Path.cwd()])
    if arguments.cores != "all" and not (arguments.cores.isdigit() and int(arguments.cores)):
        raise FggError(f"--cores {arguments.cores}: give a whole number of at least 1, or all")
    if arguments.gpus is not None and arguments.gpus < 1:
        raise FggError(f"--gpus {arguments.gpus}: give a whole number of at least 1; for the CPU, set `device: cpu`")
    found = [sys.executable, "-m", "snakemake", *(arguments.targets or [TARGET])]
    found += ["--snakefile", str(SNAKEFILE), "--cores", arguments.cores]
    found += [f"--resources=gpu={arguments.gpus}"] if arguments.gpus else []
    found += ["--directory", str(arguments.directory)] if arguments.directory else []
    found += [*rest]
    return found + (["--configfile", *map(str, arguments.config)] if arguments.config else [])


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> NoReturn:
    """Become Snakemake, which then gets the signals and gives the exit status."""
    command = words(arguments, rest)
    for path in arguments.config:
        if not path.is_file():
            raise FggError(f"--config {path} does not exist (seen from {Path.cwd()}); check the path")
    if sys.stdout is not None:  # closed, such as by >&-
        sys.stdout.flush()
    os.execve(sys.executable, command, os.environ)
