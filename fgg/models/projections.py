"""Projections to queries, keys and values: one matrix in some files and models, three in others."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fgg.errors import FggError, names

APART = re.compile(r"(blocks\.\d+\.attn\.)(?:([qkv])_proj|([qkv]))\.(weight|bias)")


def with_projections(own: Mapping[str, Tensor], state: dict[str, Tensor], origin: str | Path) -> dict[str, Tensor]:
    """The state dict with three projections joined where the model has one; the log says so.

    Keys without a bias, beside queries and values with one, have a bias of 0, as in EVA.

    Args:
        own: the model's own state dict.

    Raises:
        FggError: one of the three is missing, or the file also has them joined.
    """
    found: dict[str, dict[str, str]] = {}
    for name in state:
        match = APART.fullmatch(name)
        if match and name not in own and (whole := f"{match[1]}qkv.{match[4]}") in own:
            found.setdefault(whole, {})[match[2] or match[3]] = name
    if not found:
        return state
    state = dict(state)
    for whole, parts in found.items():
        if whole in state:
            raise FggError(
                f"model.weights: {origin} holds {whole} beside {', '.join(parts.values())}; keep one of them"
            )
        lacking = [part for part in "qkv" if part not in parts]
        if lacking == ["k"] and whole.endswith("bias"):
            state["k"] = torch.zeros_like(state[parts["q"]])
            parts["k"] = "k"
        elif lacking:
            first = next(iter(parts.values()))
            others = [re.sub(r"\.[qkv](_proj)?\.(\w+)$", rf".{part}\1.\2", first) for part in lacking]
            raise FggError(f"model.weights: {origin} lacks {names(others)} beside {first}; fetch the file again")
        state[whole] = torch.cat([state.pop(parts[part]) for part in "qkv"])
    print(f"note: model.weights: {origin}: joined the projections of queries, keys and values", file=sys.stderr)
    return state
