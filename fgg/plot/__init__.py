"""Pictures and charts of attributions, for notebooks and figures; available as ``fgg.plot``."""

from fgg.plot.batches import batch
from fgg.plot.curves import curve, gates
from fgg.plot.image_arrays import picture, relevance_grid, seen_box
from fgg.plot.maps import compare, difference, mark, overlay, show

__all__ = [
    "batch",
    "compare",
    "curve",
    "difference",
    "gates",
    "mark",
    "overlay",
    "picture",
    "relevance_grid",
    "seen_box",
    "show",
]
