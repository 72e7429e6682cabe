"""Jobs that process the same images share the work, piece by piece. Does not import torch.

The workflow has one job per experiment, so that a new experiment computes itself and nothing else. But the experiments
of a dataset read the same images with the same model, and starting a process, decoding an image and running the model
cost more than one map. Therefore the jobs of one run on one machine share a folder. A job takes a piece of the images
(some whole batches), computes it for all experiments that still lack it, and stores the results in the folder. Then it
takes the next piece that no other job is working on. A job whose pieces are all in the folder joins them and is done,
without importing PyTorch. The pieces that a killed job has finished are kept.

The results of a piece are identified by the key of their task, which is made from everything that their numbers depend
on. A piece is protected by a lock of the operating system, which is released when its process ends. Without the folder,
a job computes only its own pieces: the tables are the same, byte for byte.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from fgg.checksums import SHARED
from fgg.errors import FggError
from fgg.jobs.merge import join_tables, write_empty
from fgg.progress import Progress
from fgg.tables import as_table, atomic, read_made_from, read_table, write_table

FOLDER = SHARED
PIECES = 16  # approximate number, so that a large dataset does not become many small files

Columns = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """What one job makes.

    Attributes:
        what: its name in messages.
        outputs: name -> table to write.
        settings: kept in the tables' metadata.
        made_from: everything else that the numbers depend on: a hash of the code, checksums of the input files.
    """

    what: str
    outputs: Mapping[str, Path]
    settings: Mapping[str, Any]
    made_from: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Equal for tasks that make the same numbers."""
        text = json.dumps([sorted(self.outputs), self.settings, self.made_from], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @property
    def done(self) -> bool:
        """Whether the tables exist and were made from the same inputs."""
        try:
            made = [read_made_from(path) for path in self.outputs.values()]
        except FggError:
            return False
        return all(own == {**self.made_from, "key": self.key} for own in made)


class Worker(Protocol):
    """Computes pieces; created only if there is something to compute."""

    @property
    def images(self) -> int:
        """Number of images."""

    @property
    def batch(self) -> int:
        """Number of images that are computed at once."""

    @property
    def together(self) -> bool:
        """Whether computing tasks at the same time saves work; if not, several jobs divide them among themselves."""

    def compute(self, piece: slice, tasks: Sequence[Task]) -> Mapping[str, Mapping[str, Columns]]:
        """Compute a piece: key of a task -> output -> columns. Tasks that could not be computed are left out."""


def fulfil(
    own: Task,
    group: str,
    companions: Callable[[], Sequence[Task]],
    worker: Callable[[Sequence[Task]], Worker],
    twins: Callable[[], Sequence[Task]] = lambda: (),
) -> None:
    """Compute a task's tables, together with the jobs that share its images, and write them.

    Args:
        group: equal for tasks with the same model, images, batches and shard.
        companions: returns the other tasks of the group that this job should compute as well.
        worker: creates the worker for the given tasks, the first of which is this job's own.
        twins: returns the tasks that make the same numbers for other tables, such as TransMM's of every SAE seed; the
            last of them to be done removes the pieces.
    """
    shared = os.environ.get(FOLDER)
    shelf: _Memory | _Shelf = _Shelf(Path(shared) / group) if shared else _Memory()
    pieces = shelf.pieces()
    if pieces is None or not all(shelf.has(own.key, piece) for piece in pieces):
        tasks = [own, *(other for other in (companions() if shared else ()) if other.key != own.key)]
        pieces = _work(own, tasks, worker(tasks), shelf)
    for name, path in own.outputs.items():
        if not pieces:
            write_empty(path, own.settings, {**own.made_from, "key": own.key})
            continue
        table = join_tables([shelf.get(own.key, piece, name) for piece in pieces])
        write_table(path, table, own.settings, {**own.made_from, "key": own.key})
    if all(twin.done for twin in twins()):
        shelf.discard(own.key)


def _work(own: Task, tasks: Sequence[Task], worker: Worker, shelf: _Memory | _Shelf) -> list[slice]:
    pieces = cut(worker.images, worker.batch)
    shelf.note(pieces)
    what = own.what if len(tasks) == 1 else f"{own.what} and {len(tasks) - 1} more"
    groups = [("", tasks)] if worker.together else [(f".{task.key}", [task]) for task in tasks]
    with Progress([], worker.images * len(tasks), what) as bar:
        for wait in (False, True):  # first the pieces that no job is working on, then those that this job still lacks
            for piece, (name, group) in ((piece, group) for piece in pieces for group in groups):
                if wait and (own not in group or shelf.has(own.key, piece)):
                    continue
                with shelf.hold(f"{piece.start}{name}", wait) as held:
                    missing = [task for task in group if held and not shelf.has(task.key, piece)]
                    for key, outputs in (worker.compute(piece, missing) if missing else {}).items():
                        shelf.put(key, piece, outputs)
                    bar.update(len(missing) * (piece.stop - piece.start))
    return pieces


def cut(images: int, batch: int) -> list[slice]:
    """Pieces of whole batches, about `PIECES` of them."""
    batches = -(-images // batch)
    length = batch * -(-batches // PIECES) if batches else batch
    return [slice(start, min(start + length, images)) for start in range(0, images, length)]


class _Memory:
    """A job's own pieces."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, int, str], pa.Table] = {}

    def pieces(self) -> list[slice] | None:
        return None

    def note(self, pieces: Sequence[slice]) -> None:
        pass

    @contextlib.contextmanager
    def hold(self, name: str, wait: bool) -> Iterator[bool]:
        yield not wait

    def has(self, key: str, piece: slice) -> bool:
        return any(own[:2] == (key, piece.start) for own in self._tables)

    def put(self, key: str, piece: slice, outputs: Mapping[str, Columns]) -> None:
        for name, columns in outputs.items():
            self._tables[key, piece.start, name] = as_table(columns)

    def get(self, key: str, piece: slice, name: str) -> pa.Table:
        return self._tables[key, piece.start, name]

    def discard(self, key: str) -> None:
        pass


class _Shelf:
    """Pieces in a folder: ``{key}/{start}`` exists once all ``{key}/{start}.{output}.parquet`` of a piece do."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def pieces(self) -> list[slice] | None:
        """The pieces that the group's jobs use; None if no job has started."""
        try:
            return [slice(*each) for each in json.loads((self._folder / "pieces.json").read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError):
            return None

    def note(self, pieces: Sequence[slice]) -> None:
        with atomic(self._folder / "pieces.json") as temporary:
            temporary.write_text(json.dumps([(piece.start, piece.stop) for piece in pieces]), encoding="utf-8")

    @contextlib.contextmanager
    def hold(self, name: str, wait: bool) -> Iterator[bool]:
        """Lock ``name`` inside the block; yields whether this process holds it, always True where locks do not work."""
        with (self._folder / f"{name}.lock").open("a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            except OSError:
                pass  # no locks here: at worst a piece is computed twice
            yield True

    def has(self, key: str, piece: slice) -> bool:
        return (self._folder / key / str(piece.start)).is_file()

    def put(self, key: str, piece: slice, outputs: Mapping[str, Columns]) -> None:
        for name, columns in outputs.items():
            write_table(self._folder / key / f"{piece.start}.{name}.parquet", columns, {})
        (self._folder / key / str(piece.start)).touch()

    def get(self, key: str, piece: slice, name: str) -> pa.Table:
        return read_table(self._folder / key / f"{piece.start}.{name}.parquet")

    def discard(self, key: str) -> None:
        shutil.rmtree(self._folder / key, ignore_errors=True)


def group_of(*parts: Any) -> str:
    """The name of a group: equal for equal parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
