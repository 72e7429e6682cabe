"""How many bins SaCo sorts the patches into. Imports no torch: the configuration is checked by it too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# One bin has no pairs to compare; the thesis' definition calls that 0.
FEWEST_BINS = {"corrected": 2, "thesis": 1}


def number_of_bins(patches: int, settings: Mapping[str, Any]) -> int:
    """The number of bins from the settings of ``metrics.saco``."""
    return settings["bins"] or -(-patches // settings["patches_per_bin"])
