"""Layers where a gate's score is meaningless, and the notes about them. Does not import torch.

A patch token after block depth-2 reaches the class token's logit only through the last block's LayerNorm.
That norm is invariant to scale, so the residual is orthogonal to its gradient, and residual x gradient is
analytically zero. The computed value is rounding noise, which the gate's scaling by the MAD amplifies to full
range. After the last block, patches no longer reach the class token, and their gradient is exactly zero.
Whether this holds for a model is measured (`fgg.models.layer_diagnosis`), not inferred from the layer number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

OK, CANCELLED, ZERO = "ok", "cancelled", "zero"


class MeaninglessGate(UserWarning):
    """A gate was requested where its score is meaningless. Commands ignore the warning and report it themselves."""


def expected(depth: int) -> dict[int, str]:
    """Layer -> expected status for a pre-norm ViT that reads the class token, before it is measured."""
    status = dict.fromkeys(range(depth), OK)
    status[depth - 1] = ZERO
    if depth > 1:
        status[depth - 2] = CANCELLED
    return status


def measured(layers: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Layer -> status from the ``layers`` of a model.json."""
    return {record["layer"]: record["status"] for record in layers}


def note(settings: Mapping[str, Any], status: Mapping[int, str]) -> str:
    """Describe what is degenerate about an experiment of the grid; empty if nothing is."""
    gate = settings.get("gate")
    if not gate:
        return ""
    remarks = []
    for layer in gate["layers"]:
        remark = _remark(gate["construction"], status.get(layer, OK))
        if remark:
            remarks.append(f"layer {layer}: {remark}")
    return "; ".join(remarks)


def _remark(construction: str, status: str) -> str:
    if construction == "activation_only" or status == OK:
        return ""
    if status == ZERO:
        return "the gradient at the patches is zero, so the gate is 1"
    if construction == "no_sae":
        return "residual x gradient is analytically zero, so the gate is rounding noise"
    if construction == "combined":
        return (
            "residual x gradient is analytically zero, so the score holds only the SAE's bias and reconstruction error"
        )
    return ""
