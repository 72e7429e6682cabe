"""The part of ``python -m fgg.faithfulness`` that runs the model."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from fgg.data.load import explained_split
from fgg.data.read_ahead import ReadAhead
from fgg.errors import FggError
from fgg.faithfulness.checks import tied_patches
from fgg.faithfulness.faithfulness_correlation import Responses
from fgg.faithfulness.job import Job
from fgg.faithfulness.measures import Measure, all_fills, fills_of, measures
from fgg.faithfulness.order_curves import OrderCurves
from fgg.faithfulness.registry import Metric
from fgg.jobs.shared_work import Task
from fgg.models import model_files
from fgg.models.device import JOB_THREADS, arithmetic, images_per_batch, resolve
from fgg.models.vit import patch_size
from fgg.perturbation.engine import Perturber
from fgg.perturbation.fills import channel_values, make_fill
from fgg.perturbation.passes import Passes
from fgg.tables import matrix, read_settings, read_table

CLASSES = ("predicted", "target")  # which tables of one model share
KEPT = ("image_id", "label", "predicted", "confidence", "target")
MOST_MAP_BYTES = 2**28  # of maps of other experiments that one process keeps in memory


class Scorer:
    """Computes the scores of several jobs that share model, images, settings and shard.

    Args:
        jobs: key of the task -> job. The first one is this process' own job, whose errors end the process.
    """

    together = False  # every experiment needs its own perturbed images

    def __init__(self, jobs: Mapping[str, Job]) -> None:
        torch.set_num_threads(JOB_THREADS)
        self._own, own = next(iter(jobs.items()))
        self._settings = own.settings
        fills = fills_of(own.settings["metrics"])
        self._measures, self._fills = measures(fills), all_fills(fills)
        self._device = resolve(own.settings["device"])
        self._model, self._preprocess, record = model_files.load(own.model, self._device)
        self._channels = channel_values(self._preprocess, record.get("training_mean"))
        split = explained_split(own.images, own.settings)
        self.batch = images_per_batch(self._model, own.settings["batch_size"])
        self._rows = own.shard.rows(len(split), self.batch)
        self._split = split.part(self._rows)
        self._inputs = ReadAhead(self._split, self._preprocess, self._device)
        self.images = len(self._split)
        self._masks: Tensor | None = None  # the coverage of the patches, (images, N)
        if any(measure.metric.localises for measure in self._measures.values()):
            self._masks = self._split.coverage(self._preprocess, patch_size(self._model))
        self._ids = split.image_ids
        self._answered: pa.Table | None = None
        self._classes: dict[str, list[int]] = {}
        if own.responses is not None:
            answered = read_table(own.responses)
            if answered["image_id"].to_pylist() != split.image_ids:
                raise FggError(
                    f"{own.responses} holds other images than {own.images}; run the workflow again to rebuild it"
                )
            self._drawn = read_settings(own.responses)
            self._answered = answered[self._rows]
            self._classes = {name: answered[name].to_pylist() for name in CLASSES}
        self._at_hand: tuple[slice | None, list[tuple[slice, dict[str, Perturber]]]] = (None, [])
        self._jobs = dict(jobs)
        adaptive = any(own.get("area_tolerance") for own in map(own.settings["metrics"].get, fills))
        self._curves = CURVES.append(MEASURED) if adaptive else CURVES
        self._explained: dict[str, pa.Table] = {}
        self._maps(self._own)
        self.passes = Passes()

    def _maps(self, key: str) -> pa.Table:
        """A job's attributions. Raises FggError if they belong to other images or another model."""
        if key in self._explained:
            return self._explained[key]
        job, path = self._jobs[key], self._jobs[key].attributions
        explained = read_table(path, [*KEPT, "relevance"])
        if explained["image_id"].to_pylist() != self._ids:
            raise FggError(f"{path} holds other images than {job.images}; run the workflow again to rebuild it")
        if any(explained[name].to_pylist() != own for name, own in self._classes.items()):
            raise FggError(f"{job.responses} was made with another model than {path}; run the workflow again")
        if sum(table.nbytes for table in self._explained.values()) > MOST_MAP_BYTES:
            self._explained = {self._own: self._explained[self._own]}
        self._explained[key] = explained[self._rows]
        return self._explained[key]

    def compute(self, piece: slice, tasks: Sequence[Task]) -> Mapping[str, Mapping[str, Any]]:
        """See `fgg.jobs.shared_work.Worker`."""
        found = {}
        for key in [task.key for task in tasks if task.key in self._jobs]:
            curves: list[dict[str, Any]] = []
            try:
                explained = self._maps(key)
                with arithmetic(self._settings["precision"], self._device):
                    parts = [self._scores(own, explained, rows, curves) for rows, own in self._engines(piece)]
            except FggError as error:
                if key == self._own:
                    raise
                print(f"note: left to its own job: {self._jobs.pop(key).output} ({error})", file=sys.stderr)
                continue
            columns = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
            kept = {name: explained[name][piece].combine_chunks() for name in KEPT}
            found[key] = {"faithfulness": {**kept, **ordered(columns)}}
            if self._jobs[key].curves is not None:
                found[key]["curves"] = pa.Table.from_pylist(curves, schema=self._curves)
        return found

    def _engines(self, piece: slice) -> list[tuple[slice, dict[str, Perturber]]]:
        """The batches of a piece with an engine for each fill, kept for the next task."""
        if self._at_hand[0] != piece:
            starts = range(piece.start, piece.stop, self.batch)
            batches = [slice(start, min(start + self.batch, piece.stop)) for start in starts]
            self._at_hand = piece, [(rows, self._engines_of(rows)) for rows in batches]
        return self._at_hand[1]

    def _engines_of(self, rows: slice) -> dict[str, Perturber]:
        images = self._inputs.batch(rows)
        engine = Perturber(self._model, images, compiled=self._settings.get("compile", False))
        ids, seed = self._split.image_ids[rows], self._settings["seed"]
        engine.passes = self.passes
        size = patch_size(self._model)
        fills = {fill: make_fill(fill, images, size, self._channels, ids, seed) for fill in self._fills}
        return {"": engine} | {name: engine.using(fill) for name, fill in fills.items()}

    def _scores(
        self, engines: Mapping[str, Perturber], explained: pa.Table, rows: slice, curves: list[dict[str, Any]]
    ) -> dict[str, Tensor]:
        """The columns of a batch; its curves are appended to ``curves``, one row each."""
        relevance = torch.from_numpy(matrix(explained, "relevance")[rows].copy()).to(self._device)
        given: dict[str, Any] = {
            "model": self._model,
            "images": engines[""].images,
            "relevance": relevance,
            "target": torch.from_numpy(np.asarray(explained["target"][rows]).copy()).to(self._device),
            "image_ids": self._split.image_ids[rows],
            "seed": self._settings["seed"],
            "protocol": self._settings["protocol"],
        }
        if self._masks is not None:
            given["masks"] = self._masks[rows].to(self._device)
        columns: dict[str, Tensor] = {"relevance_ties": tied_patches(relevance)}
        engines = {fill: engine.for_one_map() for fill, engine in engines.items()}
        own_curves = {fill: OrderCurves(engine, relevance, given["target"]) for fill, engine in engines.items()}
        for measure in self._measures.values():
            given["engine"], given["curves"] = engines[measure.fill], own_curves[measure.fill]
            if "responses" in measure.metric.needs:
                given["responses"] = self._responses(measure, rows)
            settings = self._settings["metrics"][measure.metric.reference]
            own = scores(measure.metric, given, settings)
            columns |= {measure.column(name): values for name, values in own.items()}
        for number, image_id in enumerate(self._split.image_ids[rows]):
            for fill, each in own_curves.items():
                curves += [{"image_id": image_id, "fill": fill, **row} for row in each.rows(number)]
        return {name: values.cpu() for name, values in columns.items()}

    def _responses(self, measure: Measure, rows: slice) -> Responses:
        if self._answered is None:
            raise FggError(
                f"--responses is missing; {measure.metric.name} needs the model's answers to random patch subsets"
            )
        drawn = self._drawn
        shape = (-1, drawn["trials"], drawn["runs"])
        own = self._answered[rows]
        drops = "drops" if measure.fill == drawn["fills"][0] else f"drops@{measure.fill}"
        subsets = torch.from_numpy(matrix(own, "subsets").copy()).view(*shape, drawn["subset_size"])
        return Responses(
            subsets.to(self._device), torch.from_numpy(matrix(own, drops).copy()).view(shape).to(self._device)
        )


CURVES = pa.schema(
    {
        "image_id": pa.string(),
        "fill": pa.string(),
        "curve": pa.string(),
        "patches_per_step": pa.int64(),
        "probability": pa.list_(
            pa.field("element", pa.float32())
        ),  # as Parquet names it, so that joined tables are equal
    }
)
MEASURED = pa.field("measured", pa.list_(pa.field("element", pa.bool_())))  # with area_tolerance


def scores(metric: Metric, given: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """The columns that a metric returns, each a tensor of B rows; the column with the metric's name comes first.

    Raises:
        FggError: the metric returned something else, or its settings have keys that it does not accept.
    """
    own = metric.declaration
    settings = {name: value for name, value in settings.items() if name != "fill" or not metric.perturbs}
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
    """Columns in the order of the contract: first scores, then counts (ties come first), then curves."""

    def place(name: str) -> tuple[int, bool]:
        values = columns[name]
        kind = 2 if values.ndim > 1 else int(values.dtype.kind in "iub")
        return kind, name != "relevance_ties"

    return {name: columns[name] for name in sorted(columns, key=place)}
