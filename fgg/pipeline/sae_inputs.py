"""The files of SAEs: those of a sweep, and those whose features were not learnt. Does not import torch."""

from __future__ import annotations

from typing import Any

from fgg.pipeline.sae_checks import BASES
from fgg.pipeline.study import SWEEP, Study


class SaeInputs:
    """Input functions about SAEs."""

    _study: Study

    def sae_candidates(self, wildcards: Any) -> list[str]:
        """The measurements of the SAEs of a layer's sweep."""
        names = self._study.sweep(wildcards.dataset)
        return [f"data/saes/{wildcards.dataset}/sweep/{name}/layer_{wildcards.layer}/metrics.json" for name in names]

    def like_the_chosen(self, wildcards: Any) -> list[str]:
        """The record of the SAE of a sweep that was chosen, which controls of the dictionary are trained like."""
        apart = wildcards.variant in BASES or wildcards.variant.startswith(SWEEP)
        if apart or not self._study.sweep(wildcards.dataset):
            return []
        return [f"data/saes/{wildcards.dataset}/layer_{wildcards.layer}/metrics.json"]

    def like_arguments(self, wildcards: Any) -> list[str]:
        """The option that names this record."""
        return [f"--like {path}" for path in self.like_the_chosen(wildcards)]

    def sweep_tables(self, wildcards: Any) -> list[str]:
        """The tables of a dataset's sweep, one per layer."""
        layers = self._study.sae_layers(wildcards.dataset) if self._study.sweep(wildcards.dataset) else []
        return [f"results/{wildcards.dataset}/sae_sweep/layer_{layer}.csv" for layer in layers]

    def sweep_arguments(self, wildcards: Any) -> list[str]:
        """The option that names these tables."""
        found = self.sweep_tables(wildcards)
        return ["--sweep", *found] if found else []
