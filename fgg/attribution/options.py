"""Whether the options of a method have the types and ranges of what they replace. Does not import torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from fgg.attribution.registry import Method
from fgg.catalogue import FILLS

LAYERS, FILL = "layers", "fill"  # options that mean the same in every method
WITHOUT_IMAGES = [name for name in FILLS if name not in ("zero", "training_mean", "black", "white")]


def option_faults(method: Method, options: Mapping[str, Any], depth: int | None = None) -> Iterator[str]:
    """What is wrong with options of a method; the names are those of its parameters, the types those of their defaults.

    Args:
        depth: the model's number of blocks, if it is known.
    """
    for name, value in options.items():
        if name not in method.options:
            known = f"it has {', '.join(method.options)}" if method.options else "it has none"
            yield f"method {method.name!r} has no option {name!r}; {known}"
        elif why := _fault(name, value, method.declaration.defaults.get(name, ...), depth):
            yield f"{method.name}: {name} {value!r} {why}"


def _fault(name: str, value: Any, default: Any, depth: int | None) -> str:
    if name == LAYERS and default is None:
        return _layers_fault(value, depth)
    if name == FILL and isinstance(default, str):
        if isinstance(value, Real) and not isinstance(value, bool):
            return "" if math.isfinite(value) else "must be finite"
        return (
            "" if value in WITHOUT_IMAGES else f"is unknown; choose from {', '.join(WITHOUT_IMAGES)}, or give a number"
        )
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "must be true or false"
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if isinstance(default, int):
        return "" if whole else "must be a whole number"
    if isinstance(default, float):
        number = isinstance(value, Real) and not isinstance(value, bool)
        return "" if number and math.isfinite(value) else "must be a finite number"
    if isinstance(default, str):
        return "" if isinstance(value, str) else "must be text"
    return ""


def _layers_fault(value: Any, depth: int | None) -> str:
    if value is None:
        return ""
    allowed = "must be different whole numbers from 0, at least one, such as (1, 2)"
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return allowed
    if any(isinstance(layer, bool) or not isinstance(layer, Integral) or layer < 0 for layer in value):
        return allowed
    if len(set(value)) < len(value):
        return allowed
    beyond = [layer for layer in value if depth is not None and layer >= depth]
    return f"is beyond the model's depth {depth}; layers are 0 to {depth - 1}" if beyond and depth else ""
