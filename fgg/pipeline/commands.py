"""The command lines of the jobs that share work. Does not import torch.

They are the same as in the rules; a test compares the two.
"""

from __future__ import annotations

from types import SimpleNamespace

from fgg.experiments import candidates, has_gates
from fgg.pipeline.inputs import Inputs
from fgg.pipeline.parameters import EXPLAINED_KEYS, RUN_KEYS, Parameters
from fgg.pipeline.study import Study


def plan(study: Study, inputs: Inputs) -> dict[str, list[list[str]]]:
    """Stage -> the arguments of its jobs, for `fgg.jobs.plan`."""
    places = ["", "validation/"] if study.config["select"]["enabled"] else [""]
    shards = [f"shards/{n}-of-{study.shards}/" for n in range(1, study.shards + 1)] if study.shards > 1 else [""]
    found: dict[str, list[list[str]]] = {"attribution": [], "faithfulness": []}
    for dataset, grid in study.grid.items():
        for place in places:
            for name in [study.config["baseline"], *candidates(grid)] if place else grid:
                for shard in shards:
                    found["attribution"].append(attribution_command(study, inputs, dataset, name, place, shard))
                    if any(entry.own for entry in study.metrics[dataset].values()):
                        found["faithfulness"].append(faithfulness_command(study, inputs, dataset, name, place, shard))
    return found


def _images(inputs: Inputs, wildcards: SimpleNamespace, place: str) -> str:
    return inputs.validation_images(wildcards) if place else inputs.explained_images(wildcards)


def _limit(place: str) -> str:
    return "select.max_images" if place else "max_images"


def attribution_command(
    study: Study, inputs: Inputs, dataset: str, experiment: str, place: str, shard: str
) -> list[str]:
    """The arguments of ``python -m fgg.attribution``.

    Args:
        place: subfolder of the dataset's results: empty, or ``validation/``.
        shard: the wildcard: empty, or ``shards/1-of-4/``.
    """
    parameters = Parameters(study)
    wildcards = SimpleNamespace(dataset=dataset, experiment=experiment, shard=shard)
    settings = study.grid[dataset][experiment]
    folder = f"results/{dataset}/{place}{shard}"
    saes = [f"{layer}={folder}" for layer, folder in study.gate_saes(wildcards).items()]
    return [
        *("--model", inputs.model_folder(wildcards), "--images", _images(inputs, wildcards, place)),
        *(word for sae in saes for word in ("--sae", sae)),
        *(word for path in inputs.chosen_options(wildcards) for word in ("--chosen", path)),
        *("--experiment", parameters.experiment(wildcards)),
        *("--settings", parameters.settings_of(*EXPLAINED_KEYS, *RUN_KEYS, _limit(place))(wildcards)),
        *("--shard", parameters.shard(wildcards), "--code", parameters.attribution_code(wildcards)),
        *("--relevance", f"{folder}attributions/{experiment}.parquet"),
        *(("--gates", f"{folder}gates/{experiment}.parquet") if has_gates(settings) else ()),
    ]


def faithfulness_command(
    study: Study, inputs: Inputs, dataset: str, experiment: str, place: str, shard: str
) -> list[str]:
    """The arguments of ``python -m fgg.faithfulness`` for this package's metrics."""
    parameters = Parameters(study)
    wildcards = SimpleNamespace(dataset=dataset, experiment=experiment, shard=shard)
    folder = f"results/{dataset}/{place}"
    responses = inputs.validation_responses(wildcards) if place else inputs.response_table(wildcards)
    return [
        *("--model", inputs.model_folder(wildcards), "--images", _images(inputs, wildcards, place)),
        *("--attributions", f"{folder}attributions/{experiment}.parquet"),
        *(word for path in responses for word in ("--responses", path)),
        *("--settings", parameters.score_settings(_limit(place))(wildcards)),
        *("--shard", parameters.shard(wildcards), "--code", parameters.score_code(wildcards)),
        *("--output", f"{folder}{shard}faithfulness/{experiment}.parquet"),
        *("--curves", f"{folder}{shard}curves/{experiment}.parquet"),
    ]
