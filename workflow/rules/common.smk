# What the rules share. The ideas are in the package; here they are wired to wildcards.
import os
import re
from pathlib import Path

from fgg.catalogue import METRICS
from fgg.config import check, dataset_config, experiments, needs_sae
from fgg.errors import FggError
from fgg.workflow import (
    accelerators,
    as_json,
    code_hash,
    known_layers,
    pick,
    use_environment,
    warn_degenerate,
)

# Jobs run in the environment that Snakemake runs in, and find the package from any folder.
use_environment(workflow.basedir)

try:
    config = check(
        config, os.path.join(workflow.basedir, "workflow/schemas/config.schema.yaml")
    )
except FggError as error:
    raise WorkflowError(str(error))

DATASETS = config["run"]
SETTINGS = {name: dataset_config(config, name) for name in DATASETS}
GRID = {name: experiments(config, name) for name in DATASETS}


wildcard_constraints:
    dataset="|".join(map(re.escape, DATASETS)),
    experiment="[^/]+",
    layer="[0-9]+",
    split="train|val|test",


def code(module):
    """A hash of the modules a job rests on, so that a change of code reruns what it affects."""
    return code_hash(module, workflow.basedir)


def settings(*keys):
    """The chosen settings of the wildcards' dataset as JSON: keys of the dataset, else of the whole run."""

    def of(wildcards):
        return as_json(pick(config, SETTINGS[wildcards.dataset], keys))

    return of


def gpus(wildcards):
    return accelerators(config["device"], workflow.local_exec)


def experiment(wildcards):
    return as_json(GRID[wildcards.dataset][wildcards.experiment])


def explained_images(wildcards):
    return f"data/prepared/{wildcards.dataset}/{SETTINGS[wildcards.dataset]['split']}.parquet"


def gate_layers(wildcards):
    """Layers whose SAEs an experiment reads."""
    chosen = GRID[wildcards.dataset].get(wildcards.experiment, {})
    return chosen["gate"]["layers"] if needs_sae(chosen) else []


def gate_saes(wildcards):
    return expand(
        "data/saes/{dataset}/layer_{layer}/sae_weights.safetensors",
        dataset=wildcards.dataset,
        layer=gate_layers(wildcards),
    )


def sae_arguments(wildcards):
    return [
        f"--sae {layer}=data/saes/{wildcards.dataset}/layer_{layer}"
        for layer in gate_layers(wildcards)
    ]


def kind(chosen):
    """Which rule makes an experiment's attributions."""
    if "gate" not in chosen:
        return "baseline"
    return "sharpened" if chosen["control"] == "sharpened" else "gated"


def one_of(wanted):
    """A wildcard constraint: the experiments of a kind; of none, one that never matches."""
    names = {
        name
        for grid in GRID.values()
        for name, chosen in grid.items()
        if kind(chosen) == wanted
    }
    return "|".join(map(re.escape, sorted(names))) or "(?!)"


def sharpened_experiment(wildcards):
    return as_json(GRID[wildcards.dataset][f"{wildcards.gated}-sharpened"])


def scores_of_dataset(wildcards):
    return expand(
        "results/{dataset}/faithfulness/{experiment}.parquet",
        dataset=wildcards.dataset,
        experiment=GRID[wildcards.dataset],
    )


def scores(wildcards):
    return [
        f"results/{dataset}/faithfulness/{experiment}.parquet"
        for dataset in DATASETS
        for experiment in GRID[dataset]
    ]


def comparison_settings():
    chosen = {key: config[key] for key in ("baseline", "protocol", "precision", "seed")}
    # A list: the order of the grid is the order of the rows, and JSON objects are sorted.
    chosen["experiments"] = {
        dataset: [[name, settings] for name, settings in grid.items()]
        for dataset, grid in GRID.items()
    }
    return as_json(chosen)


if workflow.is_main_process:
    for dataset in DATASETS:
        warn_degenerate(
            dataset,
            GRID[dataset],
            known_layers(
                Path("data/models", dataset),
                SETTINGS[dataset]["model"]["kwargs"].get("depth"),
            ),
        )
