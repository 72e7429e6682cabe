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
from fgg.catalogue import EXTERNAL
from fgg.data.locations import hub_rows, local_settings, of_layer, read_sources
from fgg.data.sources.registry import sources
from fgg.experiments import (
    Config,
    dataset_config,
    experiments,
    has_gates,
    needs_sae,
)
from fgg.faithfulness.measures import all_fills, fills_of
from fgg.faithfulness.registry import Metric, chosen, find_metric, switched_on
from fgg.pipeline.code_hashes import code_hash, folder_hash, foreign_hash, importable_root
from fgg.pipeline.config_messages import refuse
from fgg.pipeline.configuration import check, known_depth
from fgg.pipeline.environment import accelerators, add_to_path, doubled
from fgg.pipeline.job_settings import as_json, pick
from fgg.pipeline.user_files import folder_digest, missing_files
from fgg.registry import Declaration
from fgg.saes.formats.registry import sae_formats

RUN_KEYS = ("seed", "device", "precision", "batch_size")
EXPLAINED_KEYS = ("sample", "target")  # what is explained; beside the limit to the number of images
SUBSETS = ("runs", "trials", "subset_size")
NEVER = "(?!)"  # a wildcard constraint that nothing matches
PACKAGE = Path(__file__).parents[2]


class Study:
    """A configuration, checked, with everything that follows from it.

    Args:
        config: as Snakemake gives it.
        local: tells whether jobs run on this machine, which Snakemake knows only after it has read the rules.
        places: folders in which modules of the user's own are looked for, before Python's path.

    Raises:
        FggError: the configuration has faults; all are listed.
    """

    def __init__(
        self, config: Mapping[str, Any], local: Callable[[], bool] = lambda: True, places: Sequence[str | Path] = ()
    ) -> None:
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
        self.fills = {name: fills_of(own["metrics"]) for name, own in self.settings.items()}
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
            keys = ("metrics", "protocol", "sample", *RUN_KEYS, limit)
            own = pick(self.config, self.settings[wildcards.dataset], keys)
            fills = self.fills[wildcards.dataset]
            metrics = {
                metric.reference: own["metrics"][metric.reference]
                | ({"fill": fills[metric.reference]} if metric.perturbs else {})
                for metric in self.scored(wildcards)
            }
            return as_json(own | {"metrics": metrics})

        return of

    def response_settings(self, limit: str = "max_images") -> Callable[[Any], str]:
        """A param: the settings of the job of the model's answers: the fills of all metrics, and the random subsets if needed."""

        def of(wildcards: Any) -> str:
            dataset = wildcards.dataset
            own = pick(self.config, self.settings[dataset], (*EXPLAINED_KEYS, *RUN_KEYS, limit))
            own["fills"] = all_fills(self.fills[dataset]) or ["mean"]
            if any("responses" in metric.needs for metric in self.metrics[dataset].values()):
                block = self.settings[dataset]["metrics"]["faithfulness_correlation"] or {}
                defaults = find_metric("faithfulness_correlation").settings
                own |= {key: block.get(key, defaults[key]["default"]) for key in SUBSETS}
            return as_json(own)

        return of

    def prepare_settings(self, wildcards: Any) -> str:
        """The settings of the job that prepares a dataset; the sample only if there is one."""
        own = self.settings[wildcards.dataset]
        sampled = ("sample", "split") if own["sample"] is not None else ()
        return as_json(pick(self.config, own, ("source", "path", "fractions", "max_skipped", "seed", *sampled)))

    def scored(self, wildcards: Any) -> list[Metric]:
        """The metrics of a scoring job: the one that the wildcard names, or all of this package."""
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

    def comparison_settings(self) -> str:
        """What the comparison is made with. Grids are lists: their order is that of the rows, and JSON objects are sorted."""
        keys = ("baseline", "protocol", "precision", "seed", "family", "equivalence_margin", "quality")
        own = {key: self.config[key] for key in keys}
        return as_json({**own, "experiments": self._grids(), "metrics": self._fills()})

    def selection_settings(self) -> str:
        """What the selection is made with."""
        return as_json({**{key: self.config[key] for key in ("baseline", "seed")}, "metrics": self._fills()})

    def grids(self) -> str:
        """The grids as lists."""
        return as_json(self._grids())

    def _fills(self) -> dict[str, Any]:
        return {dataset: list(own.items()) for dataset, own in self.fills.items()}

    def _grids(self) -> dict[str, Any]:
        return {dataset: list(grid.items()) for dataset, grid in self.grid.items()}

    def measures(self, wildcards: Any) -> str:
        """The metrics of a dataset and their fills."""
        return as_json(list(self.fills[wildcards.dataset].items()))

    def splits(self) -> str:
        """The explained split of each dataset."""
        return as_json({name: own["split"] for name, own in self.settings.items()})

    def whole_configuration(self, wildcards: Any = None) -> str:
        """All settings, of the datasets that are run."""
        own = {name: self.config["datasets"][name] for name in self.datasets}
        return as_json({**self.config, "datasets": own})

    def gpus(self, wildcards: Any) -> int:
        """The GPUs that a job of the models asks for."""
        return accelerators(self.config["device"], self.local())

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

    def page_code(self, wildcards: Any = None) -> str:
        """The code that writes pages, with their templates."""
        return self.code("fgg.report.pages") + folder_hash(PACKAGE / "fgg" / "report" / "templates")

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
        own = [self._code_of(entry.declaration) for entry in self.scored(wildcards)]
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

    def places(self) -> str:
        """A wildcard constraint: the folders of results that hold scores."""
        names = "|".join(map(re.escape, self.datasets))
        return f"({names})(/validation)?"

    def measurable_settings(self, wildcards: Any) -> str:
        """What makes an image measurable."""
        return as_json(self.settings[wildcards.place.split("/")[0]]["metrics"]["measurable"])

    def divided_places(self) -> str:
        """A wildcard constraint: where tables are merged; nowhere without shards."""
        return self.places() if self.shards > 1 else NEVER

    def gate_layers(self, wildcards: Any) -> list[int]:
        """Layers whose SAEs an experiment reads."""
        own = self.grid[wildcards.dataset].get(wildcards.experiment)
        return own["gate"]["layers"] if own and needs_sae(own) else []

    def sae_layers(self, dataset: str) -> list[int]:
        """The layers whose SAEs a dataset's experiments read."""
        return sorted({n for own in self.grid[dataset].values() if needs_sae(own) for n in own["gate"]["layers"]})

    # ---- before jobs run

    def warn(self, folder: Path = Path()) -> None:
        """Tell on standard error, before any job runs, which experiments mean nothing."""
        for dataset, grid in self.grid.items():
            depth = known_depth(self.settings[dataset]["model"])
            warn_degenerate(dataset, grid, known_layers(folder / "data/models" / dataset, depth))


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
