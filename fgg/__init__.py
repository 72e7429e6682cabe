"""fgg: are Vision Transformer explanations more faithful when gated with sparse autoencoder features?

The names below are the public interface. They are loaded on first use, so that importing ``fgg`` in the
workflow costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "FggError": "fgg.errors",
    "Gate": "fgg.attribution.gate",
    "Attribution": "fgg.attribution.result",
    "attribute": "fgg.attribution.attribute",
    "method": "fgg.attribution.registry",
    "methods": "fgg.attribution.registry",
    "metric": "fgg.faithfulness.registry",
    "metrics": "fgg.faithfulness.registry",
    "to_patches": "fgg.attribution.patches",
    "to_pixels": "fgg.attribution.patches",
    "load_model": "fgg.models.vit",
    "load_sae": "fgg.saes.sae",
    "saco": "fgg.faithfulness.saco",
    "pixel_flipping": "fgg.faithfulness.pixel_flipping",
    "srg": "fgg.faithfulness.srg",
    "insertion": "fgg.faithfulness.insertion",
    "deletion": "fgg.faithfulness.deletion",
    "localisation": "fgg.faithfulness.localisation",
    "order_curves": "fgg.faithfulness.order_curves",
    "Preprocess": "fgg.data.preprocess",
    "faithfulness_correlation": "fgg.faithfulness.faithfulness_correlation",
    "draw_subsets": "fgg.faithfulness.faithfulness_correlation",
    "read_results": "fgg.results",
    "open_run": "fgg.run",
    "example_run": "fgg.run",
}

_ROOMS = ("plot",)  # modules that are reached as fgg.plot

__all__ = [*_PLACES, *_ROOMS, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"fgg.{name}")
    if name not in _PLACES:
        raise AttributeError(f"module 'fgg' has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
