"""The files of the jobs that delete SAE features. Does not import torch."""

from __future__ import annotations

from typing import Any

from fgg.pipeline.study import Study


class DeletionInputs:
    """The part of `fgg.pipeline.inputs.Inputs` that is about deleted features."""

    _study: Study

    def deletion_tables(self, wildcards: Any = None) -> list[str]:
        """The tables of deleted features, of all layers whose SAEs experiments read; none if switched off."""
        return [
            f"results/{name}/feature_deletion/{kind}layer_{layer}.parquet"
            for name in self._study.datasets * self._study.config["feature_deletion"]["enabled"]
            for layer in self._study.sae_layers(name)
            for kind in ("", "alone/")
        ]

    def deletion_summary(self, wildcards: Any = None) -> list[str]:
        """Their summary, if there are any."""
        return ["results/feature_deletion.csv"] * bool(self.deletion_tables())

    def deletion_arguments(self, wildcards: Any = None) -> list[str]:
        """The option that names the summary."""
        return [f"--deletion {path}" for path in self.deletion_summary()]
