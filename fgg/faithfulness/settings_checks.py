"""Checks of the metrics' settings, given the number of patches of an image. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

PATCHES_PER_BIN = 4
PAPER_BINS = 10  # of Wu et al. 2024
WHOLE_CURVES = "the protocol thesis fills each step with the mean of the image as filled so far, and needs every step; leave it out"
# One bin has no pairs to compare; the thesis defines the score as 0 then.
FEWEST_BINS = {"corrected": 2, "thesis": 1, "paper": 2}


def number_of_bins(patches: int, patches_per_bin: int, bins: int | None, protocol: str = "corrected") -> int:
    """The number of bins from the settings of ``metrics.saco``.

    If it is derived from ``patches_per_bin``, bins have equal size: their number is at least two and divides the number
    of patches. The number closest to what ``patches_per_bin`` gives is chosen, the larger one of two equally close
    numbers. The thesis protocol takes what ``patches_per_bin`` gives, rounded up.
    """
    if bins is not None:
        return bins
    if protocol == "paper":
        return min(PAPER_BINS, patches)
    if protocol == "thesis" or patches_per_bin >= patches:
        return -(-patches // patches_per_bin)
    wanted = patches / patches_per_bin
    divisors = [number for number in range(2, patches + 1) if patches % number == 0]
    return min(divisors, key=lambda number: (abs(number - wanted), -number), default=1)


def bins_fault(bins: int, patches: int, protocol: str) -> str:
    """Why this number of bins is not possible; empty if it is."""
    fewest = FEWEST_BINS[protocol]
    return (
        "" if fewest <= bins <= patches else f"{bins} bins for {patches} patches; there must be {fewest} to {patches}"
    )


def faults(metrics: Mapping[str, Any], patches: int, protocol: str) -> Iterator[tuple[str, str]]:
    """Invalid settings of ``metrics``, as pairs of key and reason."""
    if own := metrics.get("saco"):
        bins = number_of_bins(patches, own["patches_per_bin"], own["bins"], protocol)
        if fault := bins_fault(bins, patches, protocol):
            yield "saco", fault
    if own := metrics.get("faithfulness_correlation"):
        size = own["subset_size"]
        if size >= patches:
            yield "faithfulness_correlation.subset_size", f"{size} must be below the {patches} patches of an image"
    if protocol == "thesis" and (metrics.get("pixel_flipping") or {}).get("area_tolerance"):
        yield "pixel_flipping.area_tolerance", WHOLE_CURVES
    for name, own in metrics.items():
        step = own.get("patches_per_step") if isinstance(own, Mapping) else None
        if isinstance(step, int) and step > patches:
            yield f"{name}.patches_per_step", f"{step} is more than the {patches} patches of an image"
