"""The files of case studies and of the pages of features. Does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fgg.experiments import case_experiments
from fgg.pipeline.study import Study


class FeatureInputs:
    """The part of `fgg.pipeline.inputs.Inputs` that is about case studies and the features in them."""

    _study: Study

    def case_studies(self, wildcards: Any = None) -> list[str]:
        """The folders of all case studies."""
        return [
            f"results/{dataset}/cases/{name}"
            for dataset in self._study.shown
            for name in case_experiments(self._study.config, dataset)
        ]

    def case_studies_of(self, wildcards: Any) -> list[str]:
        """The folders of a dataset's case studies."""
        own = case_experiments(self._study.config, self._study.of(wildcards.dataset).dataset)
        return [f"results/{wildcards.dataset}/cases/{name}" for name in own]

    def feature_layers(self, wildcards: Any) -> list[int]:
        """The layers whose features get pages."""
        return self._study.page_layers(wildcards.dataset)

    def feature_tables(self, wildcards: Any) -> list[str]:
        """The statistics and the prototypes of the features that get pages."""
        return [
            f"results/{wildcards.dataset}/{kind}/layer_{layer}.parquet"
            for kind in ("feature_statistics", "prototypes")
            for layer in self.feature_layers(wildcards)
        ]

    def feature_pages(self, wildcards: Any = None) -> list[str]:
        """The folders of all pages of features."""
        return list(dict.fromkeys(str(Path(folder).parents[1] / "features") for folder in self.case_studies()))
