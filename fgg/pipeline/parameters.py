"""The parameters of jobs: their settings, the hash of their code, the resources they request. Does not import torch.

Methods that rules use as params take Snakemake's wildcards and read their attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

from fgg.attribution.registry import find_method
from fgg.cases.feature_names import read_feature_names
from fgg.catalogue import EXTERNAL
from fgg.data.locations import of_layer
from fgg.data.sources.registry import sources
from fgg.faithfulness.measures import all_fills
from fgg.faithfulness.registry import find_metric
from fgg.pipeline.code_hashes import code_hash, folder_hash, foreign_hash
from fgg.pipeline.content import content_hash
from fgg.pipeline.environment import accelerators, doubled
from fgg.pipeline.image_checks import PLANTED
from fgg.pipeline.job_settings import as_json, pick
from fgg.pipeline.sae_checks import BASES
from fgg.pipeline.study import PACKAGE, SWEEP, Study
from fgg.registry import Declaration
from fgg.saes.formats.registry import sae_formats
from fgg.saes.sweep import first

RUN_KEYS = ("seed", "device", "precision", "batch_size")
EXPLAINED_KEYS = ("sample", "target")  # what is explained, apart from the limit on the number of images
SUBSETS = ("runs", "trials", "subset_size")


class Parameters:
    """The parameters of a study's jobs."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def seed(self, wildcards: Any) -> int:
        """The seed of an instance's split, and of everything except its model and its SAEs."""
        return self._study.settings[wildcards.dataset]["seed"]

    def settings_of(self, *keys: str) -> Callable[[Any], str]:
        """A param: the chosen settings as JSON; keys are those of the wildcards' dataset, else of the whole run."""
        return lambda wildcards: as_json(pick(self._study.config, self._study.settings[wildcards.dataset], keys))

    def model_settings(self, wildcards: Any) -> str:
        """The settings of a model."""
        settings = self._study.settings[wildcards.dataset]
        own = pick(self._study.config, settings, ("model", "preprocess", "device"))
        return as_json({**own, "seed": settings["seeds"]["model"]})

    def sae_settings(self, wildcards: Any) -> str:
        """The settings of one layer's SAE, of one of a sweep, or of a control of the dictionary."""
        settings, sweep = self._study.settings[wildcards.dataset], self._study.sweep(wildcards.dataset)
        keys = ("sae.weights", "sae.kind", "sae.place", "sae.train", "device", "batch_size")
        own = pick(self._study.config, settings, keys)
        own["weights"] = of_layer(own["weights"], wildcards.layer)
        variant = getattr(wildcards, "variant", "")
        if variant.startswith(SWEEP):
            own["train"] = sweep[variant.removeprefix(SWEEP)]
        elif variant:
            like_the_chosen = sweep and variant not in BASES
            own |= {"kind": variant, "weights": "train", "train": {} if like_the_chosen else first(own["train"])}
        else:
            own["train"] = first(own["train"])
        return as_json({**own, "seed": settings["seeds"]["sae"]})

    def choice_settings(self, wildcards: Any) -> str:
        """The settings of the choice among the SAEs of a sweep."""
        own = self._study.settings[wildcards.dataset]["sae"]["select"]
        # A list keeps the order of the table's rows; JSON objects are sorted.
        return as_json({"candidates": list(self._study.sweep(wildcards.dataset).items()), "select": own})

    def score_settings(self, limit: str = "max_images") -> Callable[[Any], str]:
        """A param: the settings of a scoring job for this package's metrics, or for the one that the wildcard names."""

        def of(wildcards: Any) -> str:
            keys = ("metrics", "protocol", "sample", *RUN_KEYS, *self._compiled(), limit)
            own = pick(self._study.config, self._study.settings[wildcards.dataset], keys)
            fills = self._study.fills[wildcards.dataset]
            metrics = {
                metric.reference: own["metrics"][metric.reference]
                | ({"fill": fills[metric.reference]} if metric.perturbs else {})
                for metric in self._study.scored(wildcards)
            }
            return as_json(own | {"metrics": metrics})

        return of

    def response_settings(self, limit: str = "max_images") -> Callable[[Any], str]:
        """A param: the settings of the responses job: the fills of all metrics, and the random subsets if needed."""

        def of(wildcards: Any) -> str:
            dataset = wildcards.dataset
            keys = (*EXPLAINED_KEYS, *RUN_KEYS, *self._compiled(), limit)
            own = pick(self._study.config, self._study.settings[dataset], keys)
            own["fills"] = all_fills(self._study.fills[dataset]) or ["mean"]
            if any("responses" in metric.needs for metric in self._study.metrics[dataset].values()):
                block = self._study.settings[dataset]["metrics"]["faithfulness_correlation"] or {}
                defaults = find_metric("faithfulness_correlation").settings
                own |= {key: block.get(key, defaults[key]["default"]) for key in SUBSETS}
            return as_json(own)

        return of

    def _compiled(self) -> tuple[str, ...]:
        """The key ``compile``, which is among a job's settings only if it is asked for."""
        return ("compile",) if self._study.config["compile"] else ()

    def prepare_settings(self, wildcards: Any) -> str:
        """The settings of the job that prepares a dataset; sample, masks and cues are among them only if there are any."""
        own = self._study.settings[wildcards.dataset]
        more = ["sample", "split"] if own["sample"] is not None else []
        more += [key for key in ("masks", "planted") if own[key] is not None]
        return as_json(pick(self._study.config, own, ("source", "path", "fractions", "max_skipped", "seed", *more)))

    def source_row(self, wildcards: Any) -> str:
        """The row of a source in the table of sources."""
        return as_json(asdict(self._study.sources[wildcards.source]))

    def content(self, files: Callable[[Any], list[str]]) -> Callable[[Any], str]:
        """A param: a hash of the content of the user's files that a rule reads."""
        return lambda wildcards: content_hash(files(wildcards))

    def experiment(self, wildcards: Any) -> str:
        """An experiment's settings."""
        return as_json(self._study.grid[wildcards.dataset][wildcards.experiment])

    def shard(self, wildcards: Any) -> str:
        """The shard's name, such as 1-of-4."""
        return wildcards.shard[len("shards/") : -1] or "1-of-1"

    def sae_arguments(self, wildcards: Any) -> list[str]:
        """The options that name an experiment's SAEs."""
        return [f"--sae {layer}={folder}" for layer, folder in self._study.gate_saes(wildcards).items()]

    def comparison_settings(self) -> str:
        """The settings of the comparison. Grids are lists, to keep the order of the rows; JSON objects are sorted."""
        keys = ("baseline", "protocol", "precision", "seed", "family", "equivalence_margin", "quality")
        own = {key: self._study.config[key] for key in keys}
        parts = {
            name: {"dataset": own.dataset, "seed": own.label, "prepared": own.prepared, "model": own.model}
            | {"split": self._study.settings[name]["split"]}
            for name, own in self._study.instances.items()
        }
        runs = list(parts)
        return as_json(
            {**own, "runs": runs, "experiments": self._grids(), "metrics": self._fills(), "instances": parts}
        )

    def deletion_settings(self, wildcards: Any) -> str:
        """The settings of a job that deletes features. ``max_images`` is the smaller of the two limits, ``limit`` its own."""
        keys = ("feature_deletion.counts", "feature_deletion.draws", *EXPLAINED_KEYS, *RUN_KEYS, "max_images")
        own = pick(self._study.config, self._study.settings[wildcards.dataset], keys)
        own["limit"] = self._study.config["feature_deletion"]["max_images"]
        limits = [limit for limit in (own["max_images"], own["limit"]) if limit is not None]
        own["max_images"] = min(limits, default=None)
        return as_json(own)

    def deletion_summary_settings(self) -> str:
        """The settings of the summary of deleted features."""
        parts = [
            [name, {"dataset": own.dataset, "seed": own.label, "layers": self._study.sae_layers(name)}]
            for name, own in self._study.instances.items()
        ]
        return as_json({"seed": self._study.config["seed"], "instances": parts})

    def selection_settings(self) -> str:
        """The settings of the selection."""
        return as_json({**{key: self._study.config[key] for key in ("baseline", "seed")}, "metrics": self._fills()})

    def grids(self) -> str:
        """The grids as lists."""
        return as_json(self._grids())

    def _fills(self) -> dict[str, Any]:
        return {dataset: list(own.items()) for dataset, own in self._study.fills.items()}

    def _grids(self) -> dict[str, Any]:
        return {dataset: list(grid.items()) for dataset, grid in self._study.grid.items()}

    def measures(self, wildcards: Any) -> str:
        """The metrics of a dataset and their fills."""
        return as_json(list(self._study.fills[wildcards.dataset].items()))

    def splits(self) -> str:
        """The explained split of each dataset."""
        return as_json({name: self._study.settings[name]["split"] for name in self._study.shown})

    def whole_configuration(self, wildcards: Any = None) -> str:
        """All settings of the datasets that are run."""
        own = {name: self._study.config["datasets"][name] for name in self._study.config["run"]}
        return as_json({**self._study.config, "datasets": own})

    def user_files(self, files: Mapping[str, Callable[[Any], list[str]]]) -> Callable[[Any], str]:
        """A param: per dataset, hashes of the content of the user's files, by what they are."""

        def of(wildcards: Any = None) -> str:
            found = {}
            for name in self._study.settings:
                own = SimpleNamespace(dataset=name)
                found[name] = {what: content_hash(paths(own)) for what, paths in files.items()}
            return as_json(found)

        return of

    def gpus(self, wildcards: Any) -> int:
        """The number of GPUs that a job requests if it runs a model."""
        return accelerators(self._study.config["device"], self._study.local())

    def needs(self, rule: str) -> dict[str, Callable[..., int]]:
        """Memory and time of a rule's jobs, from workflow/resources.yaml."""
        return {name: doubled(amount) for name, amount in self._study.resources[rule].items()}

    def measurable_settings(self, wildcards: Any) -> str:
        """The settings that decide whether an image is measurable."""
        settings = self._study.settings[wildcards.place.split("/")[0]]
        keys = ("least_drop", "least_cue_drop") if settings["source"] == PLANTED else ("least_drop",)
        return as_json({key: settings["metrics"]["measurable"][key] for key in keys})

    # ---- code

    def feature_names(self, wildcards: Any) -> str:
        """The user's names of a dataset's features, and what was left out, so that a changed name redraws the pages."""
        given = read_feature_names()
        own = sorted(entry for entry in given.names.items() if entry[0][0] == wildcards.dataset)
        return as_json([own, given.remarks])

    def feature_page_code(self, wildcards: Any = None) -> str:
        """The code that writes the pages of features, with their templates."""
        return self.code("fgg.cases.feature_pages") + folder_hash(PACKAGE / "fgg" / "report" / "templates")

    def code(self, *modules: str) -> str:
        """A hash of modules and all that they import, so that a change of code reruns the affected jobs."""
        return "".join(code_hash(module, str(PACKAGE)) for module in modules)

    def _code_of(self, declaration: Declaration) -> str:
        if declaration.module.startswith("fgg."):
            return self.code(declaration.module)
        return foreign_hash(declaration.module)

    def source_code(self, wildcards: Any) -> str:
        """The code that prepares a dataset's images."""
        source = sources()[self._study.settings[wildcards.dataset]["source"]]
        return self.code("fgg.data.prepare", source.declaration.module)

    def page_code(self, wildcards: Any = None) -> str:
        """The code that writes pages, with their templates."""
        return self.code("fgg.report.pages") + folder_hash(PACKAGE / "fgg" / "report" / "templates")

    def report_page_code(self, wildcards: Any = None) -> str:
        """The code that writes the report, with its templates."""
        return self.code("fgg.report.report_page") + folder_hash(PACKAGE / "fgg" / "report" / "templates")

    def sae_code(self, wildcards: Any = None) -> str:
        """The code that makes an SAE, including the readers of all its formats."""
        return self.code("fgg.saes.build_sae", *(known.declaration.module for known in sae_formats()))

    def attribution_code(self, wildcards: Any) -> str:
        """The code that makes the maps of an experiment."""
        settings = self._study.grid[wildcards.dataset][wildcards.experiment]
        own = self.code("fgg.attribution.__main__")
        return (
            own if settings["method"] == EXTERNAL else own + self._code_of(find_method(settings["method"]).declaration)
        )

    def choice_code(self, wildcards: Any) -> str:
        """The code that chooses an option of a method."""
        own = self._study.grid[wildcards.dataset][wildcards.experiment]
        return self.code("fgg.faithfulness.option_choice") + self._code_of(find_method(own["method"]).declaration)

    def score_code(self, wildcards: Any) -> str:
        """The code that scores."""
        own = [self._code_of(entry.declaration) for entry in self._study.scored(wildcards)]
        return self.code("fgg.faithfulness.__main__") + "".join(own)
