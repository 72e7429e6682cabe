"""The part of ``python -m fgg.faithfulness`` that runs the model."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from fgg.data.load import load_split
from fgg.errors import FggError
from fgg.faithfulness.checks import tied_patches
from fgg.faithfulness.faithfulness_correlation import Responses
from fgg.faithfulness.job import Job
from fgg.faithfulness.perturbation import Perturber
from fgg.faithfulness.registry import Metric, chosen, switched_on
from fgg.jobs.shared_work import Task
from fgg.models import model_files
from fgg.models.device import JOB_THREADS, arithmetic, images_per_batch, resolve
from fgg.tables import matrix, read_table

KEPT = ("image_id", "label", "predicted", "confidence")
MOST_MAP_BYTES = 2**28  # of the maps of other experiments that one process keeps in memory


class Scorer:
    """Computes the scores of several jobs that share model, images, settings and shard.

    Args:
        jobs: by the key of their task; the first is this process' own, whose faults end it.
    """

    together = False  # every experiment asks for perturbed images of its own

    def __init__(self, jobs: Mapping[str, Job]) -> None:
        torch.set_num_threads(JOB_THREADS)
        self._own, own = next(iter(jobs.items()))
        self._settings = own.settings
        self._metrics = chosen(switched_on(own.settings["metrics"]))
        self._device = resolve(own.settings["device"])
        self._model, self._preprocess, _ = model_files.load(own.model, self._device)
        split = load_split(own.images, own.settings["max_images"], own.settings["seed"])
        self.batch = images_per_batch(self._model, own.settings["batch_size"])
        self._rows = own.shard.rows(len(split), self.batch)
        self._split = split.part(self._rows)
        self.images = len(self._split)
        answered = None
        if own.responses is not None:
            answered = read_table(own.responses, ["image_id", "predicted", "subsets", "drops"])
            if answered["image_id"].to_pylist() != split.image_ids:
                raise FggError(
                    f"{own.responses} holds other images than {own.images}; run the workflow again to rebuild it"
                )
        self._answered = None if answered is None else answered[self._rows]
        self._at_hand: tuple[slice | None, list[tuple[slice, Perturber]]] = (None, [])
        self._jobs, self._ids, self._said = (
            dict(jobs),
            split.image_ids,
            None if answered is None else answered["predicted"],
        )
        self._explained: dict[str, pa.Table] = {}
        self._maps(self._own)

    def _maps(self, key: str) -> pa.Table:
        """A job's attributions; raises FggError where they are those of other images or another model."""
        if key in self._explained:
            return self._explained[key]
        job, path = self._jobs[key], self._jobs[key].attributions
        explained = read_table(path, [*KEPT, "relevance"])
        if explained["image_id"].to_pylist() != self._ids:
            raise FggError(f"{path} holds other images than {job.images}; run the workflow again to rebuild it")
        if self._said is not None and self._said.to_pylist() != explained["predicted"].to_pylist():
            raise FggError(f"{job.responses} was made with another model than {path}; run the workflow again")
        if sum(table.nbytes for table in self._explained.values()) > MOST_MAP_BYTES:
            self._explained = {self._own: self._explained[self._own]}
        self._explained[key] = explained[self._rows]
        return self._explained[key]

    def compute(self, piece: slice, tasks: Sequence[Task]) -> Mapping[str, Mapping[str, Any]]:
        """See `fgg.jobs.shared_work.Worker`."""
        found = {}
        for key in [task.key for task in tasks if task.key in self._jobs]:
            try:
                explained = self._maps(key)
                with arithmetic(self._settings["precision"], self._device):
                    parts = [self._scores(engine, explained, rows) for rows, engine in self._engines(piece)]
            except FggError as error:
                if key == self._own:
                    raise
                print(f"note: left to its own job: {self._jobs.pop(key).output} ({error})", file=sys.stderr)
                continue
            columns = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
            kept = {name: explained[name][piece].combine_chunks() for name in KEPT}
            found[key] = {"faithfulness": {**kept, **ordered(columns)}}
        return found

    def _engines(self, piece: slice) -> list[tuple[slice, Perturber]]:
        """The batches of a piece with their engines, kept for the next task."""
        if self._at_hand[0] != piece:
            starts = range(piece.start, piece.stop, self.batch)
            batches = [slice(start, min(start + self.batch, piece.stop)) for start in starts]
            tensors = (self._split.tensors(self._preprocess, rows).to(self._device) for rows in batches)
            self._at_hand = (
                piece,
                [(rows, Perturber(self._model, own)) for rows, own in zip(batches, tensors, strict=True)],
            )
        return self._at_hand[1]

    def _scores(self, engine: Perturber, explained: pa.Table, rows: slice) -> dict[str, Tensor]:
        """The columns of a batch."""
        relevance = torch.from_numpy(matrix(explained, "relevance")[rows].copy()).to(self._device)
        given = {
            "model": self._model,
            "images": engine.images,
            "relevance": relevance,
            "target": torch.from_numpy(np.asarray(explained["predicted"][rows]).copy()).to(self._device),
            "engine": engine,
            "image_ids": self._split.image_ids[rows],
            "seed": self._settings["seed"],
            "protocol": self._settings["protocol"],
        }
        columns: dict[str, Tensor] = {"relevance_ties": tied_patches(relevance)}
        for metric in self._metrics.values():
            if "responses" in metric.needs:
                given["responses"] = self._responses(metric, rows)
            columns |= scores(metric, given, self._settings["metrics"][metric.reference])
        return {name: values.cpu() for name, values in columns.items()}

    def _responses(self, metric: Metric, rows: slice) -> Responses:
        if self._answered is None:
            raise FggError(f"--responses is missing; {metric.name} needs the model's answers to random patch subsets")
        settings = self._settings["metrics"][metric.reference]
        shape = (-1, settings["trials"], settings["runs"])
        own = self._answered[rows]
        subsets = torch.from_numpy(matrix(own, "subsets").copy()).view(*shape, settings["subset_size"])
        drops = torch.from_numpy(matrix(own, "drops").copy()).view(shape)
        return Responses(subsets.to(self._device), drops.to(self._device))


def scores(metric: Metric, given: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """The columns that a metric gives, each a tensor of B rows: the one that bears its name first.

    Raises:
        FggError: the metric returned something else, or its settings name what it does not take.
    """
    own = metric.declaration
    if unknown := [name for name in settings if name not in own.parameters]:
        raise FggError(f"metrics.{metric.reference}: unknown key {', '.join(unknown)}; {metric.name} does not take it")
    arguments = {name: value for name, value in given.items() if name in own.parameters}
    found = own.load()(**arguments, **settings)
    table = dict(found) if isinstance(found, Mapping) else {metric.name: found}
    batch = len(given["relevance"])
    for name, values in table.items():
        values = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
        if not isinstance(values, Tensor) or not values.ndim or len(values) != batch:
            shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise FggError(
                f"metric {metric.name!r} returned {shape} as {name!r}; it must give {batch} values, one per image"
            )
        table[name] = values.detach()
    if metric.name not in table or table[metric.name].ndim != 1:
        raise FggError(
            f"metric {metric.name!r} returned {', '.join(table)}; one score per image must bear its own name"
        )
    return {name: table[name] for name in sorted(table, key=lambda name: name != metric.name)}


def ordered(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns in the order of the contract: scores, then counts, ties first, then curves."""

    def place(name: str) -> tuple[int, bool]:
        values = columns[name]
        kind = 2 if values.ndim > 1 else int(values.dtype.kind in "iub")
        return kind, name != "relevance_ties"

    return {name: columns[name] for name in sorted(columns, key=place)}
