"""The configured study, for the Snakefile: inputs, settings, code and targets of its jobs. Does not import torch.

Methods that rules use as input functions or params take Snakemake's wildcards and read their attributes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fgg import degeneracy
from fgg.attribution.registry import find_method
from fgg.cases.feature_names import NAMES_FILE, read_feature_names
from fgg.catalogue import DICTIONARIES, EXTERNAL
from fgg.data.locations import hub_rows, local_settings, read_sources
from fgg.errors import FggError
from fgg.experiments import (
    Config,
    case_experiments,
    dataset_config,
    experiments,
    has_gates,
    needs_sae,
)
from fgg.faithfulness.measures import fills_of
from fgg.faithfulness.registry import Metric, chosen, switched_on
from fgg.pipeline.code_hashes import importable_root
from fgg.pipeline.config_messages import refuse
from fgg.pipeline.configuration import check, known_depth
from fgg.pipeline.environment import add_to_path
from fgg.pipeline.seeds import Instance, instances
from fgg.pipeline.user_files import missing_files
from fgg.pipeline.workflow_files import WORKFLOW
from fgg.registry import Declaration
from fgg.saes.sweep import combinations, is_sweep

NEVER = "(?!)"  # a wildcard constraint that nothing matches
PACKAGE = Path(__file__).parents[2]
WRITTEN = ("data/prepared", "data/models", "data/saes", "results")  # with a folder for each dataset
SWEEP = "sweep/"  # folder of the SAEs of a sweep


class Study:
    """A checked configuration, with everything derived from it.

    Args:
        config: the configuration from Snakemake.
        local: returns whether jobs run on this machine, which Snakemake knows only after it has read the rules.
        places: folders that are searched for the user's own modules before Python's path.

    Raises:
        FggError: the configuration has faults; the message lists all of them.
    """

    def __init__(
        self, config: Mapping[str, Any], local: Callable[[], bool] = lambda: True, places: Sequence[str | Path] = ()
    ) -> None:
        for place in places:
            if str(place) not in sys.path:
                sys.path.append(str(place))
        self.config = check(config, WORKFLOW / "workflow/schemas/config.schema.yaml")
        self.local = local
        self.instances = instances(self.config)
        self.datasets = list(self.instances)  # the folders of results
        self.shown = [
            name for name, own in self.instances.items() if name == own.dataset
        ]  # with figures and case studies
        self.settings = self._settings()
        self.sources = read_sources(self.config["sources"] or WORKFLOW / "workflow/sources.csv")
        self.sources |= hub_rows(self.settings.values())
        self.grid = {name: experiments(self.config, own.dataset) for name, own in self.instances.items()}
        refuse(fault for name in self.shown for fault in self._missing(name))
        self.metrics = {name: chosen(switched_on(self.settings[name]["metrics"])) for name in self.datasets}
        self.fills = {name: fills_of(self.settings[name]["metrics"]) for name in self.datasets}
        self.shards: int = self.config["shards"]
        self.resources = yaml.safe_load((WORKFLOW / "workflow/resources.yaml").read_text(encoding="utf-8"))
        for declaration in self._foreign():
            add_to_path(importable_root(declaration.module))

    def _settings(self) -> dict[str, Config]:
        """Name of a folder (of images, a model, or SAEs and results) -> settings of its dataset, with its seeds."""
        found: dict[str, Config] = {}
        for own in self.instances.values():
            settings = local_settings(dataset_config(self.config, own.dataset))
            for name in (own.prepared, own.model, own.name):
                found.setdefault(name, {**settings, "seed": own.seeds["split"], "seeds": own.seeds})
        return found

    def of(self, name: str) -> Instance:
        """An instance that has a folder with this name."""
        return next(own for own in self.instances.values() if name in (own.name, own.model, own.prepared))

    def _missing(self, dataset: str) -> list[str]:
        """Faults in a dataset's paths that can be found before any job runs."""
        faults = missing_files(dataset, self.settings[dataset], self.sources)
        if isinstance(sample := self.settings[dataset]["sample"], dict):
            from fgg.data.sample import listed  # with pyarrow, which costs time

            try:
                listed(Path(sample["ids"]))
            except FggError as error:
                faults.append(str(error))
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

    def scored(self, wildcards: Any) -> list[Metric]:
        """The metrics of a scoring job: the one that the wildcard names, or all metrics of this package."""
        known = self.metrics[wildcards.dataset]
        name = getattr(wildcards, "metric", None)
        return [known[name]] if name else [entry for entry in known.values() if entry.own]

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

    def divided_places(self) -> str:
        """A wildcard constraint: the folders in which tables are merged; none without shards."""
        return self.places() if self.shards > 1 else NEVER

    def gate_layers(self, wildcards: Any) -> list[int]:
        """Layers whose SAEs an experiment reads."""
        return list(self.gate_saes(wildcards))

    def gate_saes(self, wildcards: Any) -> dict[int, str]:
        """Layer -> folder of the SAEs that an experiment reads; controls of the dictionary have their own."""
        own = self.grid[wildcards.dataset].get(wildcards.experiment)
        if not own or not needs_sae(own):
            return {}
        kind = DICTIONARIES.get(own["control"], ("", ""))[1]
        place = f"data/saes/{wildcards.dataset}" + (f"/{kind}" if kind else "")
        return {layer: f"{place}/layer_{layer}" for layer in own["gate"]["layers"]}

    def sweep(self, dataset: str) -> dict[str, Config]:
        """The SAEs of a dataset's sweep: name -> the settings of its training; empty where one SAE is trained."""
        own = self.settings[dataset]["sae"]
        return combinations(own["train"]) if own["weights"] == "train" and is_sweep(own["train"]) else {}

    def swept(self, yes: bool = True) -> str:
        """A wildcard constraint: the datasets with a sweep, or those without."""
        names = [name for name in self.settings if bool(self.sweep(name)) == yes]
        return "|".join(map(re.escape, names)) or NEVER

    def sae_variants(self) -> str:
        """A wildcard constraint: the folders of SAEs beside a dataset's own - those of a sweep, and of other kinds."""
        names = {f"{SWEEP}{name}" for dataset in self.settings for name in self.sweep(dataset)}
        return "|".join(map(re.escape, sorted(names | {kind for _, kind in DICTIONARIES.values()})))

    def sae_layers(self, dataset: str) -> list[int]:
        """The layers whose SAEs a dataset's experiments read."""
        return sorted({n for own in self.grid[dataset].values() if needs_sae(own) for n in own["gate"]["layers"]})

    def page_layers(self, dataset: str) -> list[int]:
        """The layers whose features get pages: those of the gates of a dataset's case studies."""
        own = case_experiments(self.config, self.instances[dataset].dataset)
        return sorted({layer for name in own for layer in self.grid[dataset][name]["gate"]["layers"]})

    # ---- before jobs run

    def folders(self) -> list[str]:
        """The folders, relative to the working folder, in which Snakemake looks for files before it plans jobs."""
        own = {f"{place}/{name}" for place in WRITTEN for name in self.settings}
        return ["logs", "benchmarks", *sorted(own)]

    def warn(self, folder: Path = Path()) -> None:
        """Print to standard error, before any job runs, which experiments are meaningless."""
        for dataset in self.shown:
            depth = known_depth(self.settings[dataset]["model"])
            layers = known_layers(folder / "data/models" / self.instances[dataset].model, depth)
            warn_degenerate(dataset, self.grid[dataset], layers)
        if self.config["cases"]["enabled"]:
            given = read_feature_names(folder / NAMES_FILE)
            known = {dataset: self.page_layers(dataset) for dataset in self.shown}
            for remark in [*given.remarks, *given.unknown(known, self.config["datasets"])]:
                print(f"warning: {remark}", file=sys.stderr)


def known_layers(folder: Path, depth: int | None) -> dict[int, str]:
    """Layer -> degeneracy: measured if the model exists, else expected from the depth; empty without a depth."""
    try:
        return degeneracy.measured(json.loads((folder / "model.json").read_text(encoding="utf-8"))["layers"])
    except (OSError, ValueError, LookupError, TypeError):
        return degeneracy.expected(depth) if depth else {}


def warn_degenerate(dataset: str, grid: Mapping[str, Config], layers: Mapping[int, str]) -> None:
    """Print to standard error, before any job runs, which experiments are meaningless."""
    for name, settings in grid.items():
        remark = degeneracy.note(settings, layers)
        if remark:
            print(f"warning: {dataset}: {name}: {remark}", file=sys.stderr)
