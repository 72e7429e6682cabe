"""A second run of Snakemake, which makes deleted and damaged files again and nothing else. Does not import torch.

Within one run, Snakemake makes everything again that comes after a file that is made again, even if the file gets the
same bytes. A run whose only targets are these files ends there. The run that was asked for then compares checksums.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fgg.errors import FggError, names

AGAIN = "FGG_AGAIN"  # environment variable: this run makes files again for another one
# Options with which Snakemake runs no jobs, or not those that are out of date.
SPECIAL = (
    "allowed_rules", "archive", "batch", "cleanup_metadata", "conda_cleanup_envs", "conda_create_envs_only",
    "container_cleanup_images", "containerize", "d3dag", "dag", "delete_all_output", "delete_temp_output",
    "detailed_summary", "draft_notebook", "edit_notebook", "export_cwl", "filegraph", "force", "forceall",
    "forcerun", "generate_unit_tests", "immediate_submit", "lint", "list_changes", "list_conda_envs",
    "list_input_changes", "list_params_changes", "list_rules", "list_target_rules", "list_untracked",
    "no_hooks", "omit_from", "print_compilation", "report", "rulegraph", "summary", "target_jobs", "touch",
    "unlock", "until",
)  # fmt: skip


@dataclass(frozen=True)
class Command:
    """The command line of a plain run of Snakemake.

    Attributes:
        options: its words without the targets.
        dry: whether it only says what it would do.
    """

    options: tuple[str, ...]
    dry: bool

    def run(self, folder: Path, targets: Sequence[str], forced: Sequence[str], locks: Sequence[int]) -> None:
        """Make the targets, those that are ``forced`` even if they exist.

        Args:
            folder: the run's working folder.
            locks: open files whose locks the new run shares.

        Raises:
            FggError: a target could not be made.
        """
        words = [sys.executable, "-m", "snakemake", *self.options, "--nolock"]
        words += ["--forcerun", *forced] if forced else []
        sys.stdout.flush()
        environment = {**os.environ, AGAIN: "1"}
        done = subprocess.run([*words, "--", *targets], cwd=folder, env=environment, pass_fds=locks, check=False)
        if done.returncode:
            raise FggError(
                f"deleted or damaged files could not be made again ({names(targets)}); the reason is above: mend "
                "the cause, and the same command goes on"
            )


def typed(
    words: Sequence[str], parser: argparse.ArgumentParser, snakefile: str, configfiles: Sequence[str | Path]
) -> Command | None:
    """The command line that started this process, as it can be typed in the run's folder; None if it is no plain run.

    Args:
        words: ``sys.argv``.
        parser: Snakemake's.
        snakefile, configfiles: absolute paths of the Snakefile, and of the files that ``--configfile`` names.
    """
    program = Path(words[0])
    if os.environ.get(AGAIN) or (program.name != "snakemake" and program.parent.name != "snakemake"):
        return None
    given, _ = parser.parse_known_args(list(words[1:]))
    if any(getattr(given, name, None) for name in SPECIAL):
        return None
    options = list(words[1:])
    for target in given.targets or ():
        del options[len(options) - 1 - options[::-1].index(target)]  # the last one, not the value of an option
    # Snakemake has changed into the folder, where relative paths mean something else.
    paths = {str(own): str(path) for own, path in zip(given.configfile, configfiles, strict=False)}
    paths |= {str(given.directory): str(Path.cwd()), str(given.snakefile): snakefile}
    options = [_replaced(word, paths) for word in options if word != "--"]
    return Command((*options, *(() if given.snakefile else ("--snakefile", snakefile))), bool(given.dryrun))


def _replaced(word: str, paths: Mapping[str, str]) -> str:
    name, sign, value = word.partition("=")
    if sign and word.startswith("-"):
        return f"{name}={paths.get(value, value)}"
    return paths.get(word, word)


def helping() -> bool:
    """Whether this run makes files again for another one, which has locked the folder."""
    return bool(os.environ.get(AGAIN))
