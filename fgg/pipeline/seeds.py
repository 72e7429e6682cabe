"""Seeds as an axis: a dataset with the seeds of its split, its model and its SAEs is an instance. Does not import torch.

The parts of an instance have folders of their own, which instances share: with ``seeds: {model: [0, 1], sae: [0, 1]}`` there are
two models, four sets of SAEs and four folders of results. The first seeds' folders bear the dataset's name.
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
        name: of the folder of its SAEs, and of its results.
        dataset: its name in the configuration.
        label: the seeds as tables name them, such as ``0``, or ``split 0, model 1, sae 0``.
        seeds: of the split, which everything else that is random takes too, the model and the SAEs.
        prepared, model: the folders of its images and its model.
    """

    name: str
    dataset: str
    label: str
    seeds: Mapping[str, int]
    prepared: str
    model: str


def instances(config: Mapping[str, Any]) -> dict[str, Instance]:
    """The instances of the configured datasets by name; of each dataset, the one of the first seeds first.

    Raises:
        FggError: a dataset has the name that the seeds of another give to its folders.
    """
    wanted = config.get("seeds")
    found: dict[str, Instance] = {}
    for dataset in config["run"]:
        for own in _of(dataset, config["seed"] if wanted is None else wanted, config["seed"]):
            if own.name in found:
                raise FggError(
                    f"run: the dataset {dataset!r} needs the folder {own.name!r} of {found[own.name].dataset!r}; rename one"
                )
            found[own.name] = own
    return found


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
