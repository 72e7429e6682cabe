"""What the metrics' settings may be, given the patches of an image. Imports no torch: it checks the configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# One bin has no pairs to compare; the thesis' definition calls that 0.
FEWEST_BINS = {"corrected": 2, "thesis": 1}


def number_of_bins(patches: int, patches_per_bin: int, bins: int | None) -> int:
    """The number of bins from the settings of ``metrics.saco``."""
    return bins or -(-patches // patches_per_bin)


def bins_fault(bins: int, patches: int, protocol: str) -> str:
    """Why there cannot be so many bins; empty where there can."""
    fewest = FEWEST_BINS[protocol]
    return (
        "" if fewest <= bins <= patches else f"{bins} bins for {patches} patches; there must be {fewest} to {patches}"
    )


def faults(metrics: Mapping[str, Any], patches: int, protocol: str) -> Iterator[tuple[str, str]]:
    """Settings of ``metrics`` that do not fit: key and why."""
    if own := metrics.get("saco"):
        bins = number_of_bins(patches, own["patches_per_bin"], own["bins"])
        if fault := bins_fault(bins, patches, protocol):
            yield "saco", fault
    if own := metrics.get("faithfulness_correlation"):
        size = own["subset_size"]
        if size >= patches:
            yield "faithfulness_correlation.subset_size", f"{size} must be below the {patches} patches of an image"
    if own := metrics.get("pixel_flipping"):
        step = own["patches_per_step"]
        if step > patches:
            yield "pixel_flipping.patches_per_step", f"{step} is more than the {patches} patches of an image"
