"""What the metrics' settings may be, given the patches of an image. Imports no torch: it checks the configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# One bin has no pairs to compare; the thesis' definition calls that 0.
FEWEST_BINS = {"corrected": 2, "thesis": 1}


def number_of_bins(patches: int, settings: Mapping[str, Any]) -> int:
    """The number of bins from the settings of ``metrics.saco``."""
    return settings["bins"] or -(-patches // settings["patches_per_bin"])


def bins_fault(bins: int, patches: int, protocol: str) -> str:
    """Why there cannot be so many bins; empty where there can."""
    fewest = FEWEST_BINS[protocol]
    return (
        "" if fewest <= bins <= patches else f"{bins} bins for {patches} patches; there must be {fewest} to {patches}"
    )


def faults(metrics: Mapping[str, Any], patches: int, protocol: str) -> Iterator[tuple[str, str]]:
    """Settings of ``metrics`` that do not fit: key and why."""
    if fault := bins_fault(number_of_bins(patches, metrics["saco"]), patches, protocol):
        yield "saco", fault
    subset_size = metrics["faithfulness_correlation"]["subset_size"]
    if subset_size >= patches:
        yield "faithfulness_correlation.subset_size", f"{subset_size} must be below the {patches} patches of an image"
    step = metrics["pixel_flipping"]["patches_per_step"]
    if step > patches:
        yield "pixel_flipping.patches_per_step", f"{step} is more than the {patches} patches of an image"
