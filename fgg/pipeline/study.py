"""The configured study as the Snakefile asks about it: its jobs' inputs, settings, code and targets. Imports no torch.

Methods that rules use as input functions or params take Snakemake's wildcards, of which they read attributes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from fgg import degeneracy
from fgg.attribution.registry import find_method
from fgg.catalogue import SANITY
from fgg.data.locations import contents, fetched, hub_rows, local_settings, of_layer, read_sources
from fgg.data.sources.registry import sources
from fgg.experiments import (
    EXTERNAL,
    Config,
    candidates,
    case_experiments,
    dataset_config,
    experiments,
    needs_sae,
    prototype_split,
)
from fgg.faithfulness.registry import Metric, chosen, switched_on
from fgg.pipeline.code_hashes import code_hash, foreign_hash, importable_root
from fgg.pipeline.config_messages import refuse
from fgg.pipeline.configuration import check, known_depth
from fgg.pipeline.environment import accelerators, add_to_path, doubled
from fgg.pipeline.input_files import folder_digest, missing_files, own_files
from fgg.pipeline.job_settings import as_json, pick
from fgg.registry import Declaration
from fgg.report.contents import figures, pages
from fgg.saes.formats.registry import sae_formats

RUN_KEYS = ("seed", "device", "precision", "batch_size")
RESPONSE_KEYS = tuple(f"metrics.faithfulness_correlation.{key}" for key in ("runs", "trials", "subset_size"))
NEVER = "(?!)"  # a wildcard constraint that nothing matches
PACKAGE = Path(__file__).parents[2]


class Study:
    """A configuration, checked, with everything that follows from it.

    Args:
        config: as Snakemake gives it.
        local: whether jobs run on this machine.
        places: folders in which modules of the user's own are looked for, before Python's path.

    Raises:
        FggError: the configuration has faults; all are listed.
    """

    def __init__(self, config: Mapping[str, Any], local: bool = True, places: Sequence[str | Path] = ()) -> None:
        for place in places:
            if str(place) not in sys.path:
                sys.path.append(str(place))
        self.config = check(config, PACKAGE / "workflow/schemas/config.schema.yaml")
        self.local = local
        self.datasets: list[str] = self.config["run"]
        self.settings = {name: local_settings(dataset_config(self.config, name)) for name in self.datasets}
        self.sources = read_sources(self.config["sources"] or PACKAGE / "workflow/sources.csv")
        self.sources |= hub_rows(self.settings.values())
        self.grid = {name: experiments(self.config, name) for name in self.datasets}
        refuse(fault for name in self.datasets for fault in self._missing(name))
        self.metrics = {name: chosen(switched_on(own["metrics"])) for name, own in self.settings.items()}
        self.shards: int = self.config["shards"]
        self.resources = yaml.safe_load((PACKAGE / "workflow/resources.yaml").read_text(encoding="utf-8"))
        for declaration in self._foreign():
            add_to_path(importable_root(declaration.module))

    def _missing(self, dataset: str) -> list[str]:
        """Faults of a data set's paths that can be seen before any job runs."""
        faults = missing_files(dataset, self.settings[dataset], self.sources)
        for name, settings in self.grid[dataset].items():
            if settings["method"] == EXTERNAL and not Path(settings["maps"]).is_file():
                faults.append(
                    f"experiments.external.{name}: {settings['maps']} does not exist (seen from {Path.cwd()})"
                )
        return faults

    def _foreign(self) -> list[Declaration]:
        """The functions of other packages that the study uses."""
        wanted = {settings["method"] for grid in self.grid.values() for settings in grid.values()} - {EXTERNAL}
        found = [find_method(name).declaration for name in sorted(wanted) if ":" in name]
        return found + [entry.declaration for own in self.metrics.values() for entry in own.values() if not entry.own]

    # ---- settings and resources of jobs

    def settings_of(self, *keys: str) -> Callable[[Any], str]:
        """A param: the chosen settings of the wildcards' dataset as JSON: keys of the dataset, else of the whole run."""
        return lambda wildcards: as_json(pick(self.config, self.settings[wildcards.dataset], keys))

    def sae_settings(self, wildcards: Any) -> str:
        """The settings of one layer's SAE."""
        own = pick(self.config, self.settings[wildcards.dataset], ("sae.weights", "sae.train", "seed", "device"))
        return as_json({**own, "weights": of_layer(own["weights"], wildcards.layer)})

    def score_settings(self, limit: str = "max_images") -> Callable[[Any], str]:
        """A param: the settings of a scoring job: this package's metrics, or the one that the wildcard names."""

        def of(wildcards: Any) -> str:
            own = pick(self.config, self.settings[wildcards.dataset], ("metrics", "protocol", *RUN_KEYS, limit))
            return as_json(
                own | {"metrics": {m.reference: own["metrics"][m.reference] for m in self._scored(wildcards)}}
            )

        return of

    def _scored(self, wildcards: Any) -> list[Metric]:
        known = self.metrics[wildcards.dataset]
        name = getattr(wildcards, "metric", None)
        return [known[name]] if name else [entry for entry in known.values() if entry.own]

    def source_row(self, wildcards: Any) -> str:
        """A line of the table of sources."""
        return as_json(asdict(self.sources[wildcards.source]))

    def pictures(self, wildcards: Any) -> str:
        """What is in the image folder, so that changed pictures are noticed."""
        return folder_digest(self.settings[wildcards.dataset]["path"])

    def experiment(self, wildcards: Any) -> str:
        """An experiment's settings."""
        return as_json(self.grid[wildcards.dataset][wildcards.experiment])

    def shard(self, wildcards: Any) -> str:
        """The shard's name, such as 1-of-4."""
        return wildcards.shard[len("shards/") : -1] or "1-of-1"

    def sae_arguments(self, wildcards: Any) -> list[str]:
        """The options that name an experiment's SAEs."""
        layers = self.gate_layers(wildcards)
        return [f"--sae {layer}=data/saes/{wildcards.dataset}/layer_{layer}" for layer in layers]

    def response_arguments(self, wildcards: Any) -> list[str]:
        """The option that names the table of responses, where a metric needs it."""
        return [f"--responses {path}" for path in self.response_table(wildcards)]

    def comparison_settings(self) -> str:
        """What the comparison is made with. Grids are lists: their order is that of the rows, and JSON objects are sorted."""
        keys = ("baseline", "protocol", "precision", "seed")
        own = {key: self.config[key] for key in keys}
        return as_json({**own, "experiments": self._grids(), "metrics": self._metric_names()})

    def selection_settings(self) -> str:
        """What the selection is made with."""
        return as_json({**{key: self.config[key] for key in ("baseline", "seed")}, "metrics": self._metric_names()})

    def grids(self) -> str:
        """The grids as lists."""
        return as_json(self._grids())

    def _grids(self) -> dict[str, Any]:
        return {dataset: list(grid.items()) for dataset, grid in self.grid.items()}

    def _metric_names(self) -> dict[str, list[str]]:
        return {dataset: [entry.reference for entry in own.values()] for dataset, own in self.metrics.items()}

    def metric_names(self, wildcards: Any) -> list[str]:
        """The references of a dataset's metrics."""
        return self._metric_names()[wildcards.dataset]

    def splits(self) -> str:
        """The explained split of each dataset."""
        return as_json({name: own["split"] for name, own in self.settings.items()})

    def whole_configuration(self, wildcards: Any = None) -> str:
        """All settings, of the datasets that are run."""
        own = {name: self.config["datasets"][name] for name in self.datasets}
        return as_json({**self.config, "datasets": own})

    def gpus(self, wildcards: Any) -> int:
        """The GPUs that a job of the models asks for."""
        return accelerators(self.config["device"], self.local)

    def needs(self, rule: str) -> dict[str, Callable[..., int]]:
        """Memory and time of a rule's jobs, from workflow/resources.yaml."""
        return {name: doubled(amount) for name, amount in self.resources[rule].items()}

    # ---- code

    def code(self, *modules: str) -> str:
        """A hash of modules and all that they import, so that a change of code reruns what it affects."""
        return "".join(code_hash(module, str(PACKAGE)) for module in modules)

    def _code_of(self, declaration: Declaration) -> str:
        if declaration.module.startswith("fgg."):
            return self.code(declaration.module)
        return foreign_hash(declaration.module)

    def source_code(self, wildcards: Any) -> str:
        """The code that prepares a dataset's images."""
        source = sources()[self.settings[wildcards.dataset]["source"]]
        return self.code("fgg.data.prepare", source.declaration.module)

    def sae_code(self, wildcards: Any = None) -> str:
        """The code that makes an SAE, with all the forms that it may come in."""
        return self.code("fgg.saes.build_sae", *(known.declaration.module for known in sae_formats()))

    def attribution_code(self, wildcards: Any) -> str:
        """The code that makes an experiment's maps."""
        settings = self.grid[wildcards.dataset][wildcards.experiment]
        own = self.code("fgg.attribution.__main__")
        return (
            own if settings["method"] == EXTERNAL else own + self._code_of(find_method(settings["method"]).declaration)
        )

    def score_code(self, wildcards: Any) -> str:
        """The code that scores."""
        own = [self._code_of(entry.declaration) for entry in self._scored(wildcards)]
        return self.code("fgg.faithfulness.__main__") + "".join(own)

    # ---- wildcards

    def one_of(self, kind: str) -> str:
        """A wildcard constraint: the experiments of a kind, ``gated`` (with a table of gates) or ``plain``."""
        names = {
            name for grid in self.grid.values() for name, own in grid.items() if (kind == "gated") == has_gates(own)
        }
        return "|".join(map(re.escape, sorted(names))) or NEVER

    def foreign_metrics(self) -> str:
        """A wildcard constraint: the metrics of other packages."""
        names = {entry.name for own in self.metrics.values() for entry in own.values() if not entry.own}
        return "|".join(map(re.escape, sorted(names))) or NEVER

    def divided_places(self) -> str:
        """A wildcard constraint: where tables are merged; nowhere without shards."""
        names = "|".join(map(re.escape, self.datasets))
        return f"({names})(/validation)?" if self.shards > 1 else NEVER

    # ---- inputs

    def explained_images(self, wildcards: Any) -> str:
        """The split that is explained."""
        return f"data/prepared/{wildcards.dataset}/{self.settings[wildcards.dataset]['split']}.parquet"

    def prototype_images(self, wildcards: Any) -> str:
        """The split that prototypes come from."""
        return f"data/prepared/{wildcards.dataset}/{prototype_split(self.config, wildcards.dataset)}.parquet"

    def downloaded_images(self, wildcards: Any) -> list[str]:
        """What says that a dataset's images are downloaded, where they are."""
        own = self.settings[wildcards.dataset]
        return [contents(own["source"])] if sources()[own["source"]].downloaded and not own["path"] else []

    def model_weights(self, wildcards: Any) -> list[str]:
        """The files that a model is made of."""
        model = self.settings[wildcards.dataset]["model"]
        clip = (model["zero_shot"] or {}).get("open_clip", "")
        texts = clip if clip and (fetched(clip) or Path(clip).is_dir()) else "pretrained"
        return own_files(model["weights"]) + own_files(texts)

    def sae_weights(self, wildcards: Any) -> list[str]:
        """The files that a layer's SAE is made of."""
        return own_files(self.settings[wildcards.dataset]["sae"]["weights"], [wildcards.layer])

    def gate_layers(self, wildcards: Any) -> list[int]:
        """Layers whose SAEs an experiment reads."""
        own = self.grid[wildcards.dataset].get(wildcards.experiment)
        return own["gate"]["layers"] if own and needs_sae(own) else []

    def gate_saes(self, wildcards: Any) -> list[str]:
        """The weights of these SAEs."""
        place = f"data/saes/{wildcards.dataset}"
        return [f"{place}/layer_{layer}/sae_weights.safetensors" for layer in self.gate_layers(wildcards)]

    def gate_prototypes(self, wildcards: Any) -> list[str]:
        """The prototypes of these SAEs' features."""
        place = f"results/{wildcards.dataset}/prototypes"
        return [f"{place}/layer_{layer}.parquet" for layer in self.gate_layers(wildcards)]

    def given_maps(self, wildcards: Any) -> list[str]:
        """The file of an external experiment's maps."""
        own = self.grid[wildcards.dataset].get(wildcards.experiment, {})
        return [own["maps"]] if own.get("method") == EXTERNAL else []

    def response_table(self, wildcards: Any) -> list[str]:
        """The model's answers to random subsets, where a metric of the job needs them."""
        needed = any("responses" in entry.needs for entry in self._scored(wildcards))
        return [f"results/{wildcards.dataset}/responses.parquet"] * needed

    def validation_responses(self, wildcards: Any) -> list[str]:
        """The same of the validation split."""
        needed = bool(self.response_table(wildcards))
        return [f"results/{wildcards.dataset}/validation/responses.parquet"] * needed

    def validation_response_arguments(self, wildcards: Any) -> list[str]:
        """The option that names them."""
        return [f"--responses {path}" for path in self.validation_responses(wildcards)]

    def responses_of_dataset(self, wildcards: Any) -> list[str]:
        """The model's answers to random subsets, where any metric needs them."""
        needed = any("responses" in entry.needs for entry in self.metrics[wildcards.dataset].values())
        return [f"results/{wildcards.dataset}/responses.parquet"] * needed

    def scores_of_dataset(self, wildcards: Any) -> list[str]:
        """The scores of all experiments of a dataset."""
        return [path for name in self.grid[wildcards.dataset] for path in self._score_tables(wildcards.dataset, name)]

    def scores(self, wildcards: Any = None) -> list[str]:
        """The scores of all experiments of all datasets."""
        return [
            path for dataset, grid in self.grid.items() for name in grid for path in self._score_tables(dataset, name)
        ]

    def candidate_scores(self, wildcards: Any = None) -> list[str]:
        """The scores on the validation split that a selection needs."""
        return [
            path
            for dataset, grid in self.grid.items()
            for name in [self.config["baseline"], *candidates(grid)]
            for path in self._score_tables(f"{dataset}/validation", name)
        ]

    def _score_tables(self, place: str, experiment: str) -> list[str]:
        """The tables of an experiment's scores: that of this package's metrics, and one for each other metric."""
        own = self.metrics[place.split("/")[0]].values()
        together = [f"results/{place}/faithfulness/{experiment}.parquet"] * any(entry.own for entry in own)
        return together + [f"results/{place}/scores/{m.name}/{experiment}.parquet" for m in own if not m.own]

    def case_scores(self, wildcards: Any) -> list[str]:
        """The scores of an experiment with case studies, and of the baseline."""
        names = dict.fromkeys((wildcards.experiment, self.config["baseline"]))
        return [path for name in names for path in self._score_tables(wildcards.dataset, name)]

    def maps_of_dataset(self, wildcards: Any) -> list[str]:
        """The maps of all experiments of a dataset."""
        return [f"results/{wildcards.dataset}/attributions/{name}.parquet" for name in self.grid[wildcards.dataset]]

    def gates_of_dataset(self, wildcards: Any) -> list[str]:
        """The gates of all experiments of a dataset that have some of their own."""
        grid = self.grid[wildcards.dataset]
        return [f"results/{wildcards.dataset}/gates/{name}.parquet" for name, own in grid.items() if has_gates(own)]

    def sae_measures(self, wildcards: Any) -> list[str]:
        """What was measured of the SAEs that a dataset's experiments read."""
        return [f"data/saes/{wildcards.dataset}/layer_{n}/metrics.json" for n in self.sae_layers(wildcards.dataset)]

    def all_sae_measures(self, wildcards: Any = None) -> list[str]:
        """The same of all datasets."""
        return [f"data/saes/{name}/layer_{n}/metrics.json" for name in self.datasets for n in self.sae_layers(name)]

    def sae_layers(self, dataset: str) -> list[int]:
        """The layers whose SAEs a dataset's experiments read."""
        return sorted({n for own in self.grid[dataset].values() if needs_sae(own) for n in own["gate"]["layers"]})

    def checked_attributions(self, wildcards: Any = None) -> list[str]:
        """The maps of the sanity checks, and of what they are checks of."""
        return [
            f"results/{dataset}/attributions/{name}.parquet"
            for dataset, grid in self.grid.items()
            for checked, own in grid.items()
            if own.get("control") in SANITY
            for name in (checked, checked.removesuffix(f"-{SANITY[own['control']]}"))
        ]

    def case_studies(self, wildcards: Any = None) -> list[str]:
        """The folders of all case studies."""
        return [
            f"results/{dataset}/cases/{name}"
            for dataset in self.datasets
            for name in case_experiments(self.config, dataset)
        ]

    # ---- targets

    def extra_tables(self, wildcards: Any = None) -> list[str]:
        """Tables of what is switched on in the configuration."""
        checks = ["results/sanity.csv"] * bool(self.checked_attributions())
        return checks + ["results/selection.csv"] * self.config["select"]["enabled"]

    def figures(self, dataset: str | None = None) -> dict[str, str]:
        """The figures of a dataset, or of any: name of the file -> title."""
        names = [dataset] if dataset else self.datasets
        return {name: title for own in names for name, title in figures(self.metrics[own]).items()}

    def caption(self, figure: str) -> str:
        """The file of a figure's caption: metrics share one."""
        return "metric" if any(figure in own for own in self.metrics.values()) else figure

    def metrics_in_words(self, wildcards: Any) -> str:
        """What the metrics of a dataset ask, for a caption."""
        own = self.metrics[wildcards.dataset].values()
        return "; ".join(f"{entry.title} ({entry.direction}): {entry.definition or entry.citation}" for entry in own)

    def pages(self) -> dict[str, tuple[str, str]]:
        """The pages of the report that this configuration gives: name of the file -> category and title."""
        left_out = ["sanity"] * (not self.checked_attributions())
        left_out += ["selection", "selection_ranking"] * (not self.config["select"]["enabled"])
        left_out += ["cases", "features"] * (not self.case_studies())
        return {name: own for name, own in pages().items() if name not in left_out}

    # ---- before jobs run

    def warn(self, folder: Path = Path()) -> None:
        """Tell on standard error, before any job runs, which experiments mean nothing."""
        for dataset, grid in self.grid.items():
            depth = known_depth(self.settings[dataset]["model"])
            warn_degenerate(dataset, grid, known_layers(folder / "data/models" / dataset, depth))

    def plan(self) -> dict[str, list[list[str]]]:
        """Stage -> the arguments of its jobs, as the rules give them, for `fgg.jobs.plan`."""
        from fgg.pipeline.commands import attribution_command, faithfulness_command

        places = ["", "validation/"] if self.config["select"]["enabled"] else [""]
        shards = [f"shards/{n}-of-{self.shards}/" for n in range(1, self.shards + 1)] if self.shards > 1 else [""]
        found: dict[str, list[list[str]]] = {"attribution": [], "faithfulness": []}
        for dataset, grid in self.grid.items():
            for place in places:
                names = list(grid) if not place else [self.config["baseline"], *candidates(grid)]
                for name in names:
                    for shard in shards:
                        found["attribution"].append(attribution_command(self, dataset, name, place, shard))
                        if any(entry.own for entry in self.metrics[dataset].values()):
                            found["faithfulness"].append(faithfulness_command(self, dataset, name, place, shard))
        return found


def has_gates(settings: Mapping[str, Any]) -> bool:
    """Whether an experiment writes a table of gates; the sharpened control has none of its own."""
    return "gate" in settings and settings["control"] != "sharpened"


def known_layers(folder: Path, depth: int | None) -> dict[int, str]:
    """Layer -> degeneracy: measured where the model exists already, else expected from the depth, else nothing."""
    try:
        return degeneracy.measured(json.loads((folder / "model.json").read_text(encoding="utf-8"))["layers"])
    except (OSError, ValueError, LookupError, TypeError):
        return degeneracy.expected(depth) if depth else {}


def warn_degenerate(dataset: str, grid: Mapping[str, Config], layers: Mapping[int, str]) -> None:
    """Tell on standard error, before any job runs, which experiments mean nothing."""
    for name, settings in grid.items():
        remark = degeneracy.note(settings, layers)
        if remark:
            print(f"warning: {dataset}: {name}: {remark}", file=sys.stderr)
