"""Instances: a dataset with the seeds of its split, its model and its SAEs. Does not import torch.

The parts of an instance have separate folders, which instances can share: with ``seeds: {model: [0, 1], sae: [0, 1]}``
there are two models, four sets of SAEs and four folders of results. The folders of the first seeds have the dataset's
name.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fgg.errors import FggError

STAGES = ("split", "model", "sae")


@dataclass(frozen=True)
class Instance:
    """A dataset with its seeds.

    Attributes:
        name: name of the folders of its SAEs and of its results.
        dataset: its name in the configuration.
        label: the seeds as written in tables, such as ``0``, or ``split 0, model 1, sae 0``.
        seeds: seeds of the split, the model and the SAEs; all other random draws use that of the split.
        prepared, model: the folders of its images and its model.
    """

    name: str
    dataset: str
    label: str
    seeds: Mapping[str, int]
    prepared: str
    model: str


def instances(config: Mapping[str, Any]) -> dict[str, Instance]:
    """The instances of the configured datasets by name; each dataset starts with the instance of its first seeds.

    Raises:
        FggError: the name of a dataset is also the name of a folder of another dataset's instance, or the seeds of its SAEs
            are given twice.
    """
    wanted = config.get("seeds")
    found: dict[str, Instance] = {}
    for dataset in config["run"]:
        own_saes = config.get("datasets", {}).get(dataset, {}).get("sae", {}).get("seeds")
        for own in _of(dataset, _with_saes(dataset, wanted, own_saes, config["seed"]), config["seed"]):
            if own.name in found:
                raise FggError(
                    f"run: the dataset {dataset!r} needs the folder {own.name!r} of {found[own.name].dataset!r}; rename one"
                )
            found[own.name] = own
    return found


def _with_saes(dataset: str, wanted: Any, saes: Sequence[int] | None, seed: int) -> Any:
    """The seeds of a dataset: those of the run, with the dataset's own for its SAEs."""
    if saes is None:
        return seed if wanted is None else wanted
    if wanted is None:
        wanted = {}
    if not isinstance(wanted, Mapping):
        raise FggError(
            f"datasets.{dataset}.sae.seeds: `seeds` already repeats the SAEs; write seeds: {{split: […], model: […]}}, or "
            "leave sae.seeds out"
        )
    return {**wanted, "sae": saes}


def _of(dataset: str, wanted: int | Sequence[int] | Mapping[str, Sequence[int]], seed: int) -> list[Instance]:
    if isinstance(wanted, int):
        wanted = [wanted]
    if not isinstance(wanted, Mapping):
        names = [dataset if number == wanted[0] else f"{dataset}-seed{number}" for number in wanted]
        return [
            Instance(name, dataset, str(number), dict.fromkeys(STAGES, number), name, name)
            for name, number in zip(names, wanted, strict=True)
        ]
    lists = [wanted.get(stage) or [seed] for stage in STAGES]
    found = []
    for numbers in itertools.product(*lists):
        names = [dataset]
        for stage, number, choices in zip(STAGES, numbers, lists, strict=True):
            names.append(names[-1] + (f"-{stage}{number}" if number != choices[0] else ""))
        label = ", ".join(f"{stage} {number}" for stage, number in zip(STAGES, numbers, strict=True))
        own = dict(zip(STAGES, numbers, strict=True))
        found.append(Instance(names[3], dataset, label, own, names[1], names[2]))
    return found
