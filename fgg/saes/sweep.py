"""Sweeps of SAEs: values of ``sae.train`` that are lists give an SAE for each combination. Does not import torch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

# What may be a list, and how it begins the part of a name that says its value.
SWEPT = {
    "architecture": "",
    "expansion": "x",
    "k": "k",
    "l1": "l1_",
    "l0": "l0_",
    "normalize": "",
    "learning_rate": "lr",
    "seed": "seed",
}
COLUMNS = {key: "l0_coefficient" if key == "l0" else key for key in SWEPT}  # in tables, beside what was measured
# A name says these values only where they are others, so that a further list of values renames nothing.
USUAL = {"l0": 1.0, "normalize": "covariance_whitening", "learning_rate": 0.001, "seed": None}
# Which of the coefficients an architecture has.
HAS = {
    "topk": ("k",),
    "batchtopk": ("k",),
    "matryoshka": ("k",),
    "jumprelu": ("k", "l0"),
    "standard": ("l1",),
}
COEFFICIENTS = ("k", "l1", "l0")
NORMALISED_OUTSIDE = ("topk", "batchtopk", "matryoshka")  # architectures that sae-lens cannot train with layer_norm


def is_sweep(train: Mapping[str, Any]) -> bool:
    """Whether a block ``sae.train`` asks for several SAEs."""
    return len(combinations(train)) > 1


def combinations(train: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> block ``sae.train`` of every combination, without lists.

    Coefficients that an architecture does not have make no difference: they take their first value, and are not in the
    name. Combinations that sae-lens cannot train are left out if there are others.
    """
    lists = {key: value if isinstance(value := train.get(key), list) else [value] for key in SWEPT if key in train}
    found: dict[str, dict[str, Any]] = {}
    refused: dict[str, dict[str, Any]] = {}
    for values in itertools.product(*lists.values()):
        own = dict(zip(lists, values, strict=True))
        idle = [key for key in COEFFICIENTS if key in own and key not in HAS[own["architecture"]]]
        own |= {key: lists[key][0] for key in idle}
        shown = [key for key in own if key not in idle and (key not in USUAL or own[key] != USUAL[key])]
        name = "-".join(f"{SWEPT[key]}{_word(own[key])}" for key in shown)
        bad = own["architecture"] in NORMALISED_OUTSIDE and own.get("normalize") == "layer_norm"
        (refused if bad else found)[name] = {**train, **own}
    return found or refused


def first(train: Mapping[str, Any]) -> dict[str, Any]:
    """The block with the first value of every list."""
    return {key: value[0] if key in SWEPT and isinstance(value, list) else value for key, value in train.items()}


def _word(value: Any) -> str:
    return (repr(value).removesuffix(".0") if isinstance(value, float) else str(value)).replace(".", "_")
