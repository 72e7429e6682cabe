"""The part of ``python -m fgg.attribution`` that runs the model."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fgg.attribution import controls, external
from fgg.attribution.attribute import Wanted, attribute_several
from fgg.attribution.gate import Gate
from fgg.attribution.job import Job
from fgg.attribution.registry import MASKS, find_method
from fgg.attribution.result import Attribution, join
from fgg.catalogue import CONTROLS, EXTERNAL, SANITY
from fgg.data.load import explained_split
from fgg.data.read_ahead import ReadAhead
from fgg.degeneracy import MeaninglessGate
from fgg.errors import FggError
from fgg.jobs.shared_work import Task
from fgg.models import model_files
from fgg.models.capture import capture
from fgg.models.device import IMAGES, JOB_THREADS, arithmetic, fitting, halved, images_per_batch, resolve
from fgg.models.explained_class import PREDICTED, explained_class
from fgg.models.vit import check_layers, patch_size, patches_of
from fgg.saes.provenance import model_record
from fgg.saes.sae import check_sae, load_sae

MASK_COLUMNS = {"masks": "mask", "decoys": "decoy"}


class Attributor:
    """Computes the attributions of several jobs that share model, images, settings and shard.

    Args:
        jobs: key of the task -> job. The first one is this process' own job, whose errors end the process.
    """

    together = True  # one pass of the model serves all tasks

    def __init__(self, jobs: Mapping[str, Job]) -> None:
        torch.set_num_threads(JOB_THREADS)
        warnings.simplefilter("ignore", MeaninglessGate)
        self._jobs = dict(jobs)
        self._own, own = next(iter(self._jobs.items()))
        self._settings = own.settings
        self._device = resolve(own.settings["device"])
        self._model, self._preprocess, self._record = model_files.load(own.model, self._device)
        split = explained_split(own.images, own.settings)
        self.batch = images_per_batch(self._model, own.settings["batch_size"])
        self._split = split.part(own.shard.rows(len(split), self.batch))
        self._inputs = ReadAhead(self._split, self._preprocess, self._device)
        self._whole = split.image_ids
        self.images = len(self._split)
        self._places = {name: place for place, name in enumerate(self._split.image_ids)}
        self._saes: dict[Path, Any] = {}
        self._wanted: dict[str, Wanted | external.Maps] = {}
        self._randomised: Any = None
        for key in list(self._jobs):
            self._attempt(key, lambda key=key: self._wanted.__setitem__(key, self._prepare(self._jobs[key])))

    @cached_property
    def _identity(self) -> dict[str, str]:
        """What SAEs must belong to; the same for all jobs, since they share the model."""
        return model_record(self._record["architecture"], self._jobs[self._own].model)

    def compute(self, piece: slice, tasks: Sequence[Task]) -> Mapping[str, Mapping[str, Any]]:
        """See `fgg.jobs.shared_work.Worker`."""
        keys = [task.key for task in tasks if task.key in self._wanted]
        parts: dict[str, list[Attribution]] = {key: [] for key in keys}
        # Maps are float32 also where the metrics' forward passes are not: they cost little, and one error less is carried on.
        precision = self._settings["precision"]
        with arithmetic("fp32" if precision == "bf16" else precision, self._device):
            start, size = piece.start, fitting(self.batch, IMAGES, self._model)
            while start < piece.stop:
                rows = slice(start, min(start + size, piece.stop))
                inputs = self._inputs.batch(rows)
                own = explained_class(
                    self._settings.get("target", PREDICTED), self._split.labels[rows], self._record["classes"]
                )
                target = None if own is None else own.to(self._device)
                known = [key for key in keys if key in self._wanted]
                try:
                    found = self._batch(inputs, self._split.image_ids[rows], known, target)
                except torch.OutOfMemoryError:
                    size = halved(size, IMAGES, self._model)
                    continue
                for key, each in found.items():
                    parts[key].append(each)
                start = rows.stop
        return {
            key: self._columns(self._jobs[key], piece, join(own)) for key, own in parts.items() if key in self._wanted
        }

    def _prepare(self, job: Job) -> Wanted | external.Maps:
        """What a job asks for, with its SAEs. Raises FggError if it is not available."""
        experiment, control = job.resolved, job.experiment.get("control")
        if experiment["method"] == EXTERNAL:
            return external.read_maps(Path(experiment["maps"]), self._whole, self._model)
        if "gate" not in experiment:
            if job.gates is not None:
                raise FggError("--gates: this experiment has no gate")
            return Wanted(find_method(experiment["method"]), experiment.get("options", {}), control=control)
        gate = Gate(**experiment["gate"])
        check_layers(self._model, gate.layers)
        saes = {}
        for layer, folder in job.saes.items():
            if folder not in self._saes:
                self._saes[folder] = load_sae(folder).to(self._device)
            saes[layer] = self._saes[folder]
        if gate.needs_sae:
            for layer in gate.layers:
                if layer not in saes:
                    raise FggError(
                        f"the gate at layer {layer} with construction {gate.construction!r} needs an SAE there"
                    )
                check_sae(saes[layer], self._model, layer, self._identity)
        if control == "randomized_sae":
            seed = job.settings["seed"]
            saes = {layer: controls.randomized_sae(sae, seed, layer) for layer, sae in saes.items()}
        options = experiment.get("options", {})
        return Wanted(find_method(experiment["method"]), options, gate=gate, saes=saes, control=control)

    def _attempt(self, key: str, action: Any) -> None:
        """Run an action for a job. If it fails for another job, that job is left to report the error itself."""
        try:
            action()
        except FggError as error:
            if key == self._own:
                raise
            self._wanted.pop(key, None)
            print(f"note: left to its own job: {self._jobs[key].relevance} ({error})", file=sys.stderr)

    def _batch(
        self, inputs: Tensor, image_ids: list[str], keys: list[str], target: Tensor | None
    ) -> dict[str, Attribution]:
        """The maps of a batch by key, without those of jobs that fail."""
        found: dict[str, Attribution] = {}
        plain = [key for key in keys if self._control(key) not in SANITY]
        try:
            found |= self._maps(self._model, inputs, image_ids, plain, target)
        except FggError:
            for key in plain:  # one of them raised the error
                self._attempt(
                    key, lambda key=key: found.update(self._maps(self._model, inputs, image_ids, [key], target))
                )
        checked = [key for key in keys if key not in plain]
        if checked:
            # The randomised model's map explains the same class as the real model's map.
            said = capture(self._model, inputs, target)
            for key in checked:
                random_model = self._control(key) == "randomized_model"
                model, asked = (self._random_model(), said.target) if random_model else (self._model, target)
                self._attempt(
                    key, lambda key=key, m=model, t=asked: found.update(self._maps(m, inputs, image_ids, [key], t))
                )
                if random_model and key in found:
                    answer = {"predicted": said.predicted, "confidence": said.confidence, "logits": said.logits}
                    found[key] = replace(found[key], **answer)
        return found

    def _control(self, key: str) -> str | None:
        return self._jobs[key].experiment.get("control")

    def _random_model(self) -> Any:
        if self._randomised is None:
            model = controls.randomized_model(self._record, self._settings["seed"])
            self._randomised = model.to(self._device)
        return self._randomised

    def _masks(self, image_ids: list[str], asked: Sequence[Wanted]) -> dict[str, Tensor]:
        """The shares of each patch that the dataset's masks cover, if one of the methods reads them."""
        wanted = [name for name in MASKS if any(name in each.method.declaration.parameters for each in asked)]
        rows = [self._places[name] for name in image_ids] if wanted else []
        size = patch_size(self._model)
        return {
            name: self._split.coverage(self._preprocess, size, np.array(rows), MASK_COLUMNS[name]).to(self._device)
            for name in wanted
        }

    def _maps(
        self, model: Any, inputs: Tensor, image_ids: list[str], keys: list[str], target: Tensor | None
    ) -> dict[str, Attribution]:
        asked: dict[str, Wanted] = {}
        given: dict[str, external.Maps] = {}
        for key in keys:
            each = self._wanted[key]
            if isinstance(each, Wanted):
                asked[key] = each if each.control in CONTROLS else replace(each, control=None)
            else:
                given[key] = each
        wanted = list(asked.values())
        masks = self._masks(image_ids, wanted)
        maps = attribute_several(model, inputs, wanted, target, image_ids, self._settings["seed"], masks)
        found = dict(zip(asked, maps, strict=True))
        for key in asked:
            if power := self._jobs[key].experiment.get("power"):
                raised = torch.from_numpy(controls.powered(found[key].relevance.cpu().numpy(), power))
                found[key] = replace(found[key], relevance=raised.to(inputs.device))
        if given:
            seen = capture(model, inputs, target)
            for key, own in given.items():
                relevance = own.relevance(image_ids, patches_of(model, inputs)).to(inputs.device)
                found[key] = Attribution(relevance, seen.predicted, seen.confidence, seen.logits, seen.target)
        return found

    def _columns(self, job: Job, piece: slice, found: Attribution) -> dict[str, Any]:
        part = self._split.part(piece)
        outputs: dict[str, Any] = {
            "relevance": {
                "image_id": part.image_ids,
                "label": part.labels,
                **{name: getattr(found, name).cpu().numpy() for name in ("predicted", "confidence")},
                "target": found.target.cpu().numpy(),
                "relevance": found.relevance.cpu().numpy(),
                **{name: values.cpu().numpy() for name, values in found.columns.items()},
            }
        }
        if job.gates is not None:
            layers = sorted(found.gates)
            stacked = {
                name: np.stack([values[layer].float().cpu().numpy() for layer in layers], axis=1)
                for name, values in (("score", found.scores), ("gate", found.gates))
            }
            outputs["gates"] = {
                "image_id": np.repeat(part.image_ids, len(layers)),
                "layer": np.tile(np.array(layers, dtype=np.int64), len(part)),
                **{name: values.reshape(-1, values.shape[-1]) for name, values in stacked.items()},
            }
        return outputs
