"""What a folder knows of the files that runs made in it: deleted and damaged ones, and those of another configuration.

Snakemake does not miss an output whose own results exist, and does not notice changed bytes with an old date. So the
folder keeps a list of its outputs (``.snakemake/fgg/outputs.json``). Before jobs are planned, a run looks for what is
gone or no longer fits its record (`fgg.checksums`), and has it made again, alone. Does not import torch.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fgg.checksums import FOLDER as RECORDS
from fgg.checksums import Record, damage, place, versions
from fgg.errors import names
from fgg.tables import atomic

KEPT = Path(".snakemake") / "fgg"
LIST, DAMAGED, ASIDE = KEPT / "outputs.json", KEPT / "damaged", KEPT / "aside"
RESULTS = "results"
DOWNLOADS = "data/downloads"  # their own rules look after them
SKEW = 60.0  # seconds by which the clocks of a cluster may differ
LAST = "results/summary.csv"  # a run that has this among its outputs is a whole one

Target = Callable[[str], str | None]


@dataclass
class Outputs:
    """The outputs of a folder. Paths are relative to it.

    Attributes:
        planned: files and folders of the last whole run's plan.
        seen: those of them that existed when a run last looked.
        facts: file -> size, dates and checksum when it was last found to fit its record.
    """

    planned: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)
    facts: dict[str, list[Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Outputs:
        """The list of a folder; an empty one if it has none that can be read."""
        try:
            own = json.loads((folder / LIST).read_text(encoding="utf-8"))
            return cls(set(own["planned"]), set(own["seen"]), dict(own["facts"]))
        except (OSError, ValueError, LookupError, TypeError):
            return cls()

    def write(self, folder: Path) -> None:
        """Write the list. Raises OSError."""
        own = {"planned": sorted(self.planned), "seen": sorted(self.seen), "facts": self.facts}
        with atomic(folder / LIST) as temporary:
            temporary.write_text(json.dumps(own), encoding="utf-8")

    def there(self, folder: Path) -> set[str]:
        """The planned outputs that exist."""
        return {path for path in self.planned if (folder / path).exists()}

    def deleted(self, folder: Path) -> list[str]:
        """Outputs that existed and are gone."""
        return sorted(path for path in self.seen if not (folder / path).exists())

    def damaged(self, folder: Path, records: Mapping[str, Record]) -> dict[str, str]:
        """File -> how its content differs from its record. Only files with new dates are read."""
        found = {}
        for path, record in records.items():
            own = (folder / path).stat()
            facts = [own.st_size, own.st_mtime_ns, own.st_ctime_ns, record.sha256]
            if self.facts.get(path) == facts:
                continue
            if how := damage(folder / path, record):
                found[path] = how
                self.facts.pop(path, None)
            else:
                self.facts[path] = facts
        return found

    def plan(self, folder: Path, outputs: Iterable[str]) -> list[str]:
        """Note a whole run's plan, and put results of other plans aside; returns what was put aside."""
        new = set(outputs)
        if LAST not in new:
            return []
        old = [path for path in sorted(self.planned - new) if Path(path).parts[0] == RESULTS]
        gone = [path for path in old if put_aside(folder, path, ASIDE)]
        _remove_empty(folder / RESULTS)
        # What was deleted stays missed until it is made: this run may be killed before that.
        self.planned = new
        self.seen = self.seen & new | self.there(folder)
        return gone

    def bring_back(self, folder: Path, target: Target) -> list[str]:
        """Bring back results that were put aside, if this configuration may make them; returns their paths."""
        found = []
        for path in [*_files(folder / ASIDE)]:
            own = path.relative_to(folder / ASIDE).as_posix()
            wanted = target(own)
            if wanted is None or (folder / own).exists():
                continue
            _move(path, folder / own)
            self.planned.add(wanted)
            found.append(own)
        return found


def put_aside(folder: Path, path: str, where: Path) -> bool:
    """Move a file or a folder, with the records of its checksums, out of the way; whether there was one."""
    if not (folder / path).exists():
        return False
    _move(folder / path, folder / where / path)
    return True


def _move(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    for one, other in ((source, target), (place(source), place(target))):
        if one.exists():
            other.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(one, other)


def _remove_empty(folder: Path) -> None:
    """Remove the folders in a folder that hold nothing."""
    for inside in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(inside.iterdir()):
            inside.rmdir()


def _files(folder: Path) -> Iterator[Path]:
    """The files in a folder that are not records, at any depth."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and RECORDS not in path.parts:
            yield path


def targets(patterns: Sequence[tuple[Any, bool]]) -> Target:
    """What to ask Snakemake for so that it makes a path: the path itself, the folder that a rule makes, or None.

    Args:
        patterns: the compiled pattern of each rule's output, and whether it is a folder.
    """

    def of(path: str) -> str | None:
        parents = [parent.as_posix() for parent in Path(path).parents]
        for pattern, folder in patterns:
            if pattern.match(path):
                return path
            own = next((parent for parent in parents if folder and pattern.match(parent)), None)
            if own:
                return own
        return None

    return of


def other_versions(records: Mapping[str, Record]) -> str:
    """A note if files were made with other versions of the libraries than the installed ones; empty if not."""
    found: dict[str, int] = {}
    now = versions()
    for record in records.values():
        for name, version in record.versions.items():
            if now.get(name) != version:
                change = f"{name} {version}, now {now.get(name, 'missing')}"
                found[change] = found.get(change, 0) + 1
    if not found:
        return ""
    told = "; ".join(f"{change} ({count} files)" for change, count in sorted(found.items()))
    return (
        f"note: files here were made with other versions of libraries, with which numbers can differ: {told}; they are kept. "
        "To compute everything anew, add --forceall"
    )


def notes(deleted: Sequence[str], damaged: Mapping[str, str], made: str) -> list[str]:
    """What to tell the user of deleted and damaged files; ``made`` is what happens to them."""
    lines = [f"note: {path} is damaged: {how}; {made}" for path, how in damaged.items()]
    if deleted:
        lines.append(f"note: deleted since the last run: {names(deleted)}; {made}")
    return lines


def redate(folder: Path, outputs: Iterable[str], change: bool) -> str:
    """A note if outputs are dated in the future, as after the clock was set back; with ``change``, they get today's date.

    Snakemake takes a file that it makes for older than such inputs, and removes it. Folders that are outputs count, too.
    """
    now = time.time()
    files = [folder / path for path in outputs]
    places = sorted({*files, *(path.parent for path in files)})
    late = [path for path in places if path.stat().st_mtime > now + SKEW]
    if not late:
        return ""
    for path in late if change else ():
        os.utime(path, (now, now))
    done = "they get today's date" if change else "a run gives them today's date"
    return (
        f"note: {len(late)} files and folders of outputs are dated in the future, as after a clock was set back; {done}"
    )


def remains(folder: Path) -> bool:
    """Whether the last file of a whole run exists."""
    return (folder / LAST).exists()
