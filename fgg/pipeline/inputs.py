"""The files that jobs read and that runs make: input functions and targets for the Snakefile. Does not import torch.

Methods that rules use as input functions or params take Snakemake's wildcards and read their attributes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fgg.catalogue import DICTIONARIES, EXTERNAL, SANITY
from fgg.data.locations import contents, fetched
from fgg.data.sources.registry import masks_folder, sources
from fgg.experiments import candidates, has_gates, prototype_split, role
from fgg.pipeline.deletion_inputs import DeletionInputs
from fgg.pipeline.feature_inputs import FeatureInputs
from fgg.pipeline.sae_inputs import SaeInputs
from fgg.pipeline.study import Study
from fgg.pipeline.user_files import own_files
from fgg.report.contents import figures, pages


class Inputs(DeletionInputs, FeatureInputs, SaeInputs):
    """The files of a study."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def response_arguments(self, wildcards: Any) -> list[str]:
        """The option that names the table of responses, if a metric needs it."""
        return [f"--responses {path}" for path in self.response_table(wildcards)]

    def explained_images(self, wildcards: Any) -> str:
        """The split that is explained."""
        return f"{self.prepared_folder(wildcards)}/{self._study.settings[wildcards.dataset]['split']}.parquet"

    def validation_images(self, wildcards: Any) -> str:
        """The validation split."""
        return f"{self.prepared_folder(wildcards)}/val.parquet"

    def prepared_folder(self, wildcards: Any) -> str:
        """The folder of an instance's images."""
        return f"data/prepared/{self._study.of(wildcards.dataset).prepared}"

    def prepared_dataset(self, wildcards: Any) -> list[str]:
        """All files in the folder of an instance's images."""
        names = ("train.parquet", "val.parquet", "test.parquet", "dataset.json")
        return [f"{self.prepared_folder(wildcards)}/{name}" for name in names]

    def model_folder(self, wildcards: Any) -> str:
        """The folder of an instance's model."""
        return f"data/models/{self._study.of(wildcards.dataset).model}"

    def model_files(self, wildcards: Any) -> list[str]:
        """The files of an instance's model."""
        return [f"{self.model_folder(wildcards)}/{name}" for name in ("model.safetensors", "model.json")]

    def records(self, wildcards: Any = None) -> list[str]:
        """The records of the images and the models of all instances."""
        own = self._study.instances.values()
        images = [f"data/prepared/{one.prepared}/dataset.json" for one in own]
        return list(dict.fromkeys(images + [f"data/models/{one.model}/model.json" for one in own]))

    def prototype_images(self, wildcards: Any) -> str:
        """The split that prototypes come from."""
        dataset = self._study.of(wildcards.dataset).dataset
        return f"{self.prepared_folder(wildcards)}/{prototype_split(self._study.config, dataset)}.parquet"

    def downloaded_images(self, wildcards: Any) -> list[str]:
        """The file that records the download of a dataset's images, if they are downloaded."""
        own = self._study.settings[wildcards.dataset]
        return [contents(own["source"])] if sources()[own["source"]].downloaded and not own["path"] else []

    def sample_file(self, wildcards: Any) -> list[str]:
        """The file that lists the images to explain, if there is one."""
        sample = self._study.settings[wildcards.dataset]["sample"]
        return [sample["ids"]] if isinstance(sample, dict) else []

    def pictures(self, wildcards: Any) -> list[str]:
        """The folder of images and that of masks that a dataset's settings name, and the list of images to explain."""
        own = self._study.settings[wildcards.dataset]
        return [path for path in (own["path"], masks_folder(own)) if path] + self.sample_file(wildcards)

    def model_weights(self, wildcards: Any) -> list[str]:
        """The files from which a model is made."""
        model = self._study.settings[wildcards.dataset]["model"]
        clip = (model["zero_shot"] or {}).get("open_clip", "")
        texts = clip if clip and (fetched(clip) or Path(clip).is_dir()) else "pretrained"
        return own_files(model["weights"]) + own_files(texts)

    def sae_weights(self, wildcards: Any) -> list[str]:
        """The files from which a layer's SAE is made."""
        return own_files(self._study.settings[wildcards.dataset]["sae"]["weights"], [wildcards.layer])

    def all_sae_weights(self, wildcards: Any) -> list[str]:
        """The files from which the SAEs of all layers are made."""
        own = self._study.settings[wildcards.dataset]["sae"]
        return own_files(own["weights"], own["layers"])

    def gate_saes(self, wildcards: Any) -> list[str]:
        """The weights of the SAEs that an experiment reads."""
        return [f"{folder}/sae_weights.safetensors" for folder in self._study.gate_saes(wildcards).values()]

    def gate_sae_measures(self, wildcards: Any) -> list[str]:
        """The measurements of the SAEs that an experiment reads."""
        return [f"{Path(path).parent}/metrics.json" for path in self.gate_saes(wildcards)]

    def gate_prototypes(self, wildcards: Any) -> list[str]:
        """The prototypes of the features of the SAEs that an experiment reads."""
        place = f"results/{wildcards.dataset}/prototypes"
        return [f"{place}/layer_{layer}.parquet" for layer in self._study.gate_layers(wildcards)]

    def given_maps(self, wildcards: Any) -> list[str]:
        """The file of an external experiment's maps."""
        own = self._study.grid[wildcards.dataset].get(wildcards.experiment, {})
        return [own["maps"]] if own.get("method") == EXTERNAL else []

    def chosen_options(self, wildcards: Any) -> list[str]:
        """The file of the option that is chosen for an experiment's method, if one is."""
        own = self._study.grid[wildcards.dataset].get(wildcards.experiment, {})
        name = wildcards.experiment.removesuffix(f"-{SANITY.get(own.get('control'), '')}")  # a check has its original's
        return [f"results/{wildcards.dataset}/options/{name}.json"] if own.get("choose") else []

    def chosen_arguments(self, wildcards: Any) -> list[str]:
        """The option that names that file."""
        return [f"--chosen {path}" for path in self.chosen_options(wildcards)]

    def response_table(self, wildcards: Any) -> list[str]:
        """The model's responses to random subsets, if a metric of the job needs them."""
        needed = any("responses" in entry.needs for entry in self._study.scored(wildcards))
        return [f"results/{wildcards.dataset}/responses.parquet"] * needed

    def validation_responses(self, wildcards: Any) -> list[str]:
        """The model's responses on the validation split, if a metric of the job needs them."""
        needed = bool(self.response_table(wildcards))
        return [f"results/{wildcards.dataset}/validation/responses.parquet"] * needed

    def validation_response_arguments(self, wildcards: Any) -> list[str]:
        """The option that names the responses on the validation split."""
        return [f"--responses {path}" for path in self.validation_responses(wildcards)]

    def responses_of_dataset(self, wildcards: Any) -> list[str]:
        """The model's responses to random subsets, if any metric of the dataset needs them."""
        needed = any("responses" in entry.needs for entry in self._study.metrics[wildcards.dataset].values())
        return [f"results/{wildcards.dataset}/responses.parquet"] * needed

    def scores_of_dataset(self, wildcards: Any) -> list[str]:
        """The scores of all experiments of a dataset."""
        return [
            path for name in self._study.grid[wildcards.dataset] for path in self._score_tables(wildcards.dataset, name)
        ]

    def scores(self, wildcards: Any = None) -> list[str]:
        """The scores of all experiments of all datasets."""
        return [
            path
            for dataset, grid in self._study.grid.items()
            for name in grid
            for path in self._score_tables(dataset, name)
        ]

    def candidate_scores(self, wildcards: Any = None) -> list[str]:
        """The scores on the validation split that a selection needs."""
        return [
            path
            for dataset, grid in self._study.grid.items()
            for name in [self._study.config["baseline"], *candidates(grid)]
            for path in self._score_tables(f"{dataset}/validation", name)
        ]

    def _score_tables(self, place: str, experiment: str) -> list[str]:
        """The tables of an experiment's scores: one for this package's metrics, and one for each other metric."""
        own = self._study.metrics[place.split("/")[0]].values()
        together = [f"results/{place}/faithfulness/{experiment}.parquet"] * any(entry.own for entry in own)
        return together + [f"results/{place}/scores/{m.name}/{experiment}.parquet" for m in own if not m.own]

    def case_scores(self, wildcards: Any) -> list[str]:
        """The scores of an experiment with case studies, and of the baseline."""
        names = dict.fromkeys((wildcards.experiment, self._study.config["baseline"]))
        return [path for name in names for path in self._score_tables(wildcards.dataset, name)]

    def image_tables(self, wildcards: Any = None) -> list[str]:
        """The tables of all datasets that say which images are measurable."""
        return [f"results/{dataset}/images.parquet" for dataset in self._study.datasets]

    def selection_images(self, wildcards: Any = None) -> list[str]:
        """The same tables for the explained and the validation split."""
        places = [place for dataset in self._study.datasets for place in (dataset, f"{dataset}/validation")]
        return [f"results/{place}/images.parquet" for place in places]

    def curves_of_dataset(self, wildcards: Any) -> list[str]:
        """The curves of all experiments of a dataset, computed by this package's metrics."""
        if not any(entry.own for entry in self._study.metrics[wildcards.dataset].values()):
            return []
        return [f"results/{wildcards.dataset}/curves/{name}.parquet" for name in self._study.grid[wildcards.dataset]]

    def maps_of_dataset(self, wildcards: Any) -> list[str]:
        """The maps of all experiments of a dataset."""
        return [
            f"results/{wildcards.dataset}/attributions/{name}.parquet" for name in self._study.grid[wildcards.dataset]
        ]

    def all_maps(self, wildcards: Any = None) -> list[str]:
        """The maps of all experiments of all datasets."""
        return [f"results/{name}/attributions/{own}.parquet" for name, grid in self._study.grid.items() for own in grid]

    def gates_of_dataset(self, wildcards: Any) -> list[str]:
        """The gates of all experiments of a dataset that have a table of gates."""
        grid = self._study.grid[wildcards.dataset]
        return [f"results/{wildcards.dataset}/gates/{name}.parquet" for name, own in grid.items() if has_gates(own)]

    def sae_measures(self, wildcards: Any) -> list[str]:
        """The measurements of the SAEs that a dataset's experiments read."""
        return [
            f"data/saes/{wildcards.dataset}/layer_{n}/metrics.json" for n in self._study.sae_layers(wildcards.dataset)
        ]

    def all_sae_measures(self, wildcards: Any = None) -> list[str]:
        """The measurements of the SAEs of all datasets."""
        return [
            f"data/saes/{name}/layer_{n}/metrics.json"
            for name in self._study.datasets
            for n in self._study.sae_layers(name)
        ]

    def dictionary_measures(self, wildcards: Any = None) -> list[str]:
        """The measurements of the SAEs that controls of the dictionary read, of all datasets."""
        found = [
            f"data/saes/{dataset}/{DICTIONARIES[own['control']][1]}/layer_{layer}/metrics.json"
            for dataset, grid in self._study.grid.items()
            for own in grid.values()
            if own.get("control") in DICTIONARIES
            for layer in own["gate"]["layers"]
        ]
        return list(dict.fromkeys(found))

    def checked_attributions(self, wildcards: Any = None) -> list[str]:
        """The maps of the sanity checks, and the maps that they check."""
        return [
            f"results/{dataset}/attributions/{name}.parquet"
            for dataset, grid in self._study.grid.items()
            for checked, own in grid.items()
            if own.get("control") in SANITY
            for name in (checked, checked.removesuffix(f"-{SANITY[own['control']]}"))
        ]

    def pooled_table(self, wildcards: Any = None) -> list[str]:
        """The pooled table, if there are several runs."""
        return ["results/pooled.csv"] * (len(self._study.datasets) > 1)

    def pooled_arguments(self, wildcards: Any) -> list[str]:
        """The option that names the pooled table."""
        return [f"--pooled {path}" for path in self.pooled_table()]

    # ---- targets

    def extra_tables(self, wildcards: Any = None) -> list[str]:
        """Tables that are switched on in the configuration."""
        checks = ["results/sanity.csv"] * bool(self.checked_attributions())
        checks += self.pooled_table() + self.deletion_summary()
        checks += ["results/thesis_statistics.csv"] * (self._study.config["protocol"] == "thesis")
        return checks + ["results/selection.csv"] * self._study.config["select"]["enabled"]

    def figures(self, dataset: str | None = None) -> dict[str, str]:
        """The figures of one dataset or of all: file name -> title."""
        names = [dataset] if dataset else self._study.shown
        found: dict[str, str] = {}
        for own in names:
            powers = any(settings.get("power") for settings in self._study.grid[own].values())
            found |= figures(
                self._study.metrics[own], powers, bool(self.deletion_summary()), bool(self._study.sweep(own))
            )
        return found

    def caption(self, figure: str) -> str:
        """The file of a figure's caption; all metrics share one."""
        return "metric" if any(figure in own for own in self._study.metrics.values()) else figure

    def metrics_in_words(self, wildcards: Any) -> str:
        """What the metrics of a dataset measure, for a caption."""
        own = self._study.metrics[wildcards.dataset].values()
        return "; ".join(f"{entry.title} ({entry.direction}): {entry.definition or entry.citation}" for entry in own)

    def pages(self) -> dict[str, tuple[str, str]]:
        """The pages of the report with this configuration: file name -> category and title."""
        left_out = ["sanity"] * (not self.checked_attributions())
        left_out += ["selection", "selection_ranking"] * (not self._study.config["select"]["enabled"])
        left_out += ["cases", "features"] * (not self.case_studies())
        reference = any(role(own) == "reference" for grid in self._study.grid.values() for own in grid.values())
        left_out += ["judged"] * (not reference)
        left_out += ["pooled"] * (len(self._study.datasets) < 2)
        left_out += ["feature_deletion"] * (not self.deletion_summary())
        left_out += ["sae_quality"] * (not self.all_sae_measures())
        return {name: own for name, own in pages().items() if name not in left_out}
