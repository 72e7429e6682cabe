# What the rules share. The ideas are in the package; here they are wired to wildcards.
import os
import re
import sys
from dataclasses import asdict
from pathlib import Path

import yaml

from fgg.catalogue import SANITY
from fgg.report.experiment_names import FIGURES, PAGES
from fgg.data.locations import (
    contents,
    fetched,
    hub_rows,
    local_settings,
    of_layer,
    read_sources,
)
from fgg.errors import FggError
from fgg.experiments import (
    candidates,
    case_experiments,
    dataset_config,
    experiments,
    needs_sae,
    prototype_split,
)
from fgg.pipeline.code_hashes import code_hash
from fgg.pipeline.config_messages import refuse
from fgg.pipeline.configuration import STUDIES, check, known_depth
from fgg.pipeline.environment import accelerators, doubled, use_environment
from fgg.pipeline.input_files import folder_digest, missing_files, own_files
from fgg.pipeline.job_settings import as_json, pick
from fgg.pipeline.runs import advice, claim, enter
from fgg.pipeline.study import known_layers, warn_degenerate

# Jobs run in the environment that Snakemake runs in, and find the package from any folder.
use_environment(workflow.basedir)

try:
    config = check(
        config, os.path.join(workflow.basedir, "workflow/schemas/config.schema.yaml")
    )
except FggError as error:
    raise WorkflowError(str(error))

DATASETS = config["run"]
SETTINGS = {name: local_settings(dataset_config(config, name)) for name in DATASETS}
try:
    SOURCES = read_sources(
        config["sources"] or Path(workflow.basedir, "workflow/sources.csv")
    )
    SOURCES |= hub_rows(SETTINGS.values())
    refuse(
        fault
        for name in DATASETS
        for fault in missing_files(name, SETTINGS[name], SOURCES)
    )
except FggError as error:
    raise WorkflowError(str(error))
GRID = {name: experiments(config, name) for name in DATASETS}
SHARDS = config["shards"]
RESOURCES = yaml.safe_load(
    Path(workflow.basedir, "workflow/resources.yaml").read_text(encoding="utf-8")
)
RUN_KEYS = ("seed", "device", "precision", "batch_size")
RESPONSE_KEYS = (
    *(
        f"metrics.faithfulness_correlation.{key}"
        for key in ("runs", "trials", "subset_size")
    ),
    *RUN_KEYS,
)
SCORE_KEYS = ("metrics", "protocol", *RUN_KEYS)


wildcard_constraints:
    dataset="|".join(map(re.escape, DATASETS)),
    experiment="[^/]+",
    layer="[0-9]+",
    split="train|val|test",
    source="|".join(map(re.escape, SOURCES)) or "(?!)",
    shard=f"shards/[0-9]+-of-{SHARDS}/" if SHARDS > 1 else "(?:)",


# Light ones, and downloads, which nodes of a cluster could not make: they run beside snakemake itself.
localrules:
    download,
    sharpened_attribution,
    merge,
    merge_gated,
    figures,
    sanity,
    readme,
    pages,
    summary,


def code(module):
    """A hash of the modules a job rests on, so that a change of code reruns what it affects."""
    return code_hash(module, workflow.basedir)


def settings(*keys):
    """The chosen settings of the wildcards' dataset as JSON: keys of the dataset, else of the whole run."""

    def of(wildcards):
        return as_json(pick(config, SETTINGS[wildcards.dataset], keys))

    return of


def pictures(wildcards):
    """What is in the image folder, so that changed pictures are noticed."""
    return folder_digest(SETTINGS[wildcards.dataset]["path"])


def source_row(wildcards):
    """A line of the table of sources."""
    return as_json(asdict(SOURCES[wildcards.source]))


def downloaded_images(wildcards):
    own = SETTINGS[wildcards.dataset]
    return (
        [contents(own["source"])]
        if own["source"] in STUDIES and not own["path"]
        else []
    )


def model_weights(wildcards):
    model = SETTINGS[wildcards.dataset]["model"]
    clip = (model["zero_shot"] or {}).get("open_clip", "")
    texts = clip if clip and (fetched(clip) or Path(clip).is_dir()) else "pretrained"
    return own_files(model["weights"]) + own_files(texts)


def sae_weights(wildcards):
    return own_files(SETTINGS[wildcards.dataset]["sae"]["weights"], [wildcards.layer])


def sae_settings(wildcards):
    """The settings of one layer's SAE."""
    keys = ("sae.weights", "sae.train", "seed", "device")
    own = pick(config, SETTINGS[wildcards.dataset], keys)
    return as_json({**own, "weights": of_layer(own["weights"], wildcards.layer)})


def gpus(wildcards):
    return accelerators(config["device"], workflow.local_exec)


def needs(rule):
    """Memory and time of a rule's jobs, from workflow/resources.yaml."""
    return {name: doubled(amount) for name, amount in RESOURCES[rule].items()}


def piece(path):
    """An output with the wildcard shard, which is empty where nothing is divided; shards go after their merge."""
    return temp(path) if SHARDS > 1 else path


def shard(wildcards):
    return wildcards.shard[len("shards/") : -1] or "1-of-1"


def divided_places():
    """A wildcard constraint: where tables are merged; nowhere without shards."""
    names = "|".join(map(re.escape, DATASETS))
    return f"({names})(/validation)?" if SHARDS > 1 else "(?!)"


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


def maps_of_dataset(wildcards):
    return expand(
        "results/{dataset}/attributions/{experiment}.parquet",
        dataset=wildcards.dataset,
        experiment=GRID[wildcards.dataset],
    )


def gates_of_dataset(wildcards):
    return [
        f"results/{wildcards.dataset}/gates/{name}.parquet"
        for name, chosen in GRID[wildcards.dataset].items()
        if kind(chosen) == "gated"
    ]


def sae_layers(dataset):
    """The layers whose SAEs a dataset's experiments read."""
    return sorted(
        {
            layer
            for chosen in GRID[dataset].values()
            if needs_sae(chosen)
            for layer in chosen["gate"]["layers"]
        }
    )


def sae_measures(wildcards):
    return [
        f"data/saes/{wildcards.dataset}/layer_{layer}/metrics.json"
        for layer in sae_layers(wildcards.dataset)
    ]


def scores(wildcards):
    return [
        f"results/{dataset}/faithfulness/{experiment}.parquet"
        for dataset in DATASETS
        for experiment in GRID[dataset]
    ]


def candidate_scores(wildcards):
    return [
        f"results/{dataset}/validation/faithfulness/{experiment}.parquet"
        for dataset, grid in GRID.items()
        for experiment in [config["baseline"], *candidates(grid)]
    ]


def checked_attributions(wildcards):
    """The maps of the sanity checks, and of what they are checks of."""
    names = [
        (dataset, name)
        for dataset, grid in GRID.items()
        for checked, chosen in grid.items()
        if chosen.get("control") in SANITY
        for name in (checked, checked.removesuffix(f"-{SANITY[chosen['control']]}"))
    ]
    return [f"results/{dataset}/attributions/{name}.parquet" for dataset, name in names]


def extra_tables(wildcards):
    """Tables of what is switched on in the configuration."""
    checks = any(checked_attributions(wildcards))
    return ["results/sanity.csv"] * checks + ["results/selection.csv"] * config[
        "select"
    ]["enabled"]


def report_pages():
    """The names of the pages that this configuration gives: `PAGES` without the tables that are switched off."""
    left_out = []
    if not any(checked_attributions(None)):
        left_out += ["sanity"]
    if not config["select"]["enabled"]:
        left_out += ["selection", "selection_ranking"]
    if not case_studies(None):
        left_out += ["cases", "features"]
    return [name for name in PAGES if name not in left_out]


def whole_configuration(wildcards):
    """All settings, of the datasets that are run."""
    own = {name: config["datasets"][name] for name in DATASETS}
    return as_json({**config, "datasets": own})


def all_sae_measures(wildcards):
    return [
        f"data/saes/{dataset}/layer_{layer}/metrics.json"
        for dataset in DATASETS
        for layer in sae_layers(dataset)
    ]


def case_studies(wildcards):
    """The folders of all case studies."""
    return [
        f"results/{dataset}/cases/{name}"
        for dataset in DATASETS
        for name in case_experiments(config, dataset)
    ]


def prototype_images(wildcards):
    return f"data/prepared/{wildcards.dataset}/{prototype_split(config, wildcards.dataset)}.parquet"


def gate_prototypes(wildcards):
    return expand(
        "results/{dataset}/prototypes/layer_{layer}.parquet",
        dataset=wildcards.dataset,
        layer=gate_layers(wildcards),
    )


def baseline_scores(wildcards):
    return f"results/{wildcards.dataset}/faithfulness/{config['baseline']}.parquet"


def case_names(wildcards):
    """What the report's list tells of a file: a case's picture, a feature's page, or a table."""
    kind = wildcards.get("kind", "table")
    return {
        "layer": wildcards.get("layer", "all"),
        "kind": {"features": "feature page"}.get(kind, kind),
        "name": wildcards.name.replace("_", " "),
    }


def grid_in_order():
    """The grids as lists: their order is the order of the rows, and JSON objects are sorted."""
    return as_json({dataset: list(grid.items()) for dataset, grid in GRID.items()})


def comparison_settings():
    keys = ("baseline", "protocol", "precision", "seed")
    return as_json(
        {
            **{key: config[key] for key in keys},
            "experiments": {
                dataset: list(grid.items()) for dataset, grid in GRID.items()
            },
        }
    )


if workflow.is_main_process:
    for dataset in DATASETS:
        warn_degenerate(
            dataset,
            GRID[dataset],
            known_layers(
                Path("data/models", dataset),
                known_depth(SETTINGS[dataset]["model"]),
            ),
        )
    try:
        if remark := enter(Path.cwd()):
            print(remark, file=sys.stderr)
    except FggError as error:
        raise WorkflowError(str(error))


onstart:
    try:
        claim(Path.cwd())
    except FggError as error:
        raise WorkflowError(str(error))


onerror:
    print(advice(log), file=sys.stderr)
