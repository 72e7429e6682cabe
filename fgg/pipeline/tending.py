"""What a run does about the outputs of its folder, at its start and at its end. Does not import torch."""

from __future__ import annotations

import atexit
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fgg.checksums import tidy, written
from fgg.errors import names
from fgg.pipeline import outputs, runs
from fgg.pipeline.again import Command, helping
from fgg.pipeline.outputs import Outputs


class Tending:
    """Looks after deleted and damaged files, and those of another configuration.

    Args:
        folder: the run's working folder.
        patterns: for `fgg.pipeline.outputs.targets`.
        command: the run's command line, if it is a plain one.
    """

    def __init__(self, folder: Path, patterns: Sequence[tuple[Any, bool]], command: Command | None) -> None:
        self._folder, self._target = folder, outputs.targets(patterns)
        self._command = command
        self._started = False

    def before(self) -> Iterator[str]:
        """Before jobs are planned: notes for the user; after the last one, deleted and damaged files are made again.

        Raises:
            FggError: another run is at work in the folder, or a file cannot be made again.
        """
        command, folder = self._command, self._folder
        if command is None or (command.dry and runs.busy(folder)):
            return
        if not command.dry:
            runs.claim(folder, early=True)
            atexit.register(self._idle)
        known = Outputs.read(folder)
        if not command.dry and (back := known.bring_back(folder, self._target)):
            yield f"note: results of this configuration, which lay aside, are back: {names(back)}"
        records = dict(written(folder))
        if remark := outputs.redate(folder, records, change=not command.dry):
            yield remark
        damaged = known.damaged(folder, records)
        deleted = self._makeable(known.deleted(folder))
        # Without its last file, the run has work to do, and may make them on its way.
        now = deleted if outputs.remains(folder) else []
        yield from outputs.notes(now, damaged, "it would be made again" if command.dry else "it is made again")
        if remark := outputs.other_versions(records):
            yield remark
        targets = sorted({*now, *self._makeable(damaged)})
        if not command.dry:
            # Noted first: whenever this run is killed, the next one misses what this one has not made.
            known.seen = known.there(folder) | {*targets, *deleted}
            known.write(folder)
            for path in damaged:
                outputs.put_aside(folder, path, outputs.DAMAGED)
        self._again(command, targets)

    def start(self, planned: Iterable[str], kept: Iterable[str]) -> Iterator[str]:
        """When the jobs are planned: notes for the user; after the last one, what would stay missing is made.

        Results of another configuration are put aside. A job with several outputs of which one is missing does not run if
        no other job asks for this one: the user has deleted it, or the job was killed after it had written the others.

        Args:
            planned: the outputs of all jobs of the plan.
            kept: those of jobs that will not run.

        Raises:
            FggError: a file cannot be made again.
        """
        self._started = True
        if helping():
            return
        known = Outputs.read(self._folder)
        if gone := known.plan(self._folder, map(str, planned)):
            yield (
                f"note: results of another configuration are put aside, into {outputs.ASIDE}: {names(gone)}; they "
                "come back with their configuration (to keep the results of both, use --directory)"
            )
        missing = self._makeable(path for path in map(str, kept) if not (self._folder / path).exists())
        known.seen |= known.planned.intersection(missing)
        known.write(self._folder)
        if missing and self._command:
            yield f"note: missing beside what was made with it: {names(missing)}; it is made first"
            self._again(self._command, missing)

    def note(self) -> None:
        """Note which outputs exist.

        Those that a job was to make anew when it failed or was stopped are not forgotten: Snakemake has removed them, and
        would not miss them.
        """
        if not helping():
            tidy(self._folder)
            known = Outputs.read(self._folder)
            known.seen |= known.there(self._folder)
            known.write(self._folder)

    def _idle(self) -> None:
        """At the end of a process that had no job to run: remove what the jobs of a run shared that was killed after them."""
        if not self._started and outputs.remains(self._folder):
            runs.tidy(self._folder / runs.SHARED)

    def _again(self, command: Command, targets: Sequence[str]) -> None:
        if targets:
            there = [path for path in targets if (self._folder / path).exists()]  # folders that lack a file
            command.run(self._folder, targets, there, runs.locked())

    def _makeable(self, paths: Iterable[str]) -> list[str]:
        return [target for target in map(self._target, paths) if target and not target.startswith(outputs.DOWNLOADS)]
