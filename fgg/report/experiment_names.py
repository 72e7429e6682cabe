"""Readable names of experiments: ``gated, layers 1+2, activation × gradient``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fgg.attribution.registry import find_method
from fgg.catalogue import CONSTRUCTIONS, EXTERNAL
from fgg.errors import FggError
from fgg.experiments import TRANSMM, role

if TYPE_CHECKING:
    import pandas as pd

CONTROL_TITLES = {
    "permuted_gate": "permuted gate",
    "sharpened": "sharpened TransMM",
    "gate_values": "gate's values, TransMM's order",
    "gate_order": "gate's order, TransMM's values",
    "power": "to a power",
    "randomized_model": "randomised model",
    "randomized_sae": "randomised SAE",
    "frozen_sae": "random decoder",
    "untrained_sae": "untrained SAE",
    "pca_sae": "principal components",
    "identity_sae": "residual dimensions",
}
PARTNER_TITLES = {
    "transmm": "TransMM",
    "ungated": "the method without the gate",
    "shuffled": "shuffled decoder",
    "permuted": "permuted gate",
    "sharpened": "sharpened TransMM",
    "values": "gate's values, TransMM's order",
    "order": "gate's order, TransMM's values",
    "frozen": "SAE with a random decoder",
    "untrained": "untrained SAE",
    "pca": "principal components instead of an SAE",
    "identity": "residual dimensions instead of an SAE",
} | {name: entry.title.replace(" x ", " × ") for name, entry in CONSTRUCTIONS.items()}
OPTION = re.compile(r"([a-z_]+?)([0-9.]+)")
GROUPS = ("Baselines", "Gated", "Controls", "Bounds")


def partner_title(against: str, partner: str) -> str:
    """What a gate is compared with, such as ``TransMM to the power 2``; the partner is an experiment's id."""
    if against == "power":
        return f"TransMM to the power {partner.rsplit('-p', 1)[-1]}"
    return PARTNER_TITLES.get(against, against)


def group(cells: Mapping[str, Any]) -> str:
    """The group of an experiment, one of `GROUPS`, from its table cells; a shuffled decoder is a control."""
    if cells["control"] or cells["shuffle_decoder"]:
        return "Controls"
    if cells["construction"]:
        return "Gated"
    return "Baselines" if _role(cells["method"]) == "method" else "Bounds"


def _role(method: str) -> str:
    try:
        return role({"method": method})
    except FggError:  # a method of another package that no longer exists
        return "method"


def kind(cells: Mapping[str, Any]) -> str:
    """What distinguishes an experiment from its neighbours on the same layers, such as ``activation × gradient``."""
    if not cells["construction"]:
        title = _method_title(cells) + _options(cells)
        if cells["control"] == "power":
            return f"{title} to the power {str(cells.get('experiment', '?')).rsplit('-p', 1)[-1]}"
        return f"{title}, {CONTROL_TITLES.get(cells['control'], cells['control'])}" if cells["control"] else title
    if cells["control"]:
        title = CONTROL_TITLES.get(cells["control"], cells["control"])
        return title if cells.get("method", TRANSMM) == TRANSMM else title.replace("TransMM", _method_title(cells))
    return "shuffled decoder" if cells["shuffle_decoder"] else PARTNER_TITLES[cells["construction"]]


def _method_title(cells: Mapping[str, Any]) -> str:
    """The title of the method, or for external maps the name of the experiment."""
    if cells["method"] == EXTERNAL:
        return str(cells.get("experiment", "given maps")).split("-randomized")[0]
    return method_title(cells["method"])


def method_title(method: str) -> str:
    """The title of a method; its name if it belongs to another package and no longer exists."""
    try:
        return find_method(method).title
    except FggError:
        return method


def _options(cells: Mapping[str, Any]) -> str:
    """What the id of a baseline says beside the method's name: its options, such as ``layers2``."""
    name = str(cells.get("experiment", ""))
    own = str(cells["method"]).rsplit(":", 1)[-1]
    if cells["control"] or cells["method"] == EXTERNAL or not name or name == own:
        return ""
    words = [_spaced(word) for word in name.removeprefix(f"{own}-").split("-")]
    return f", {' '.join(words)}"


def _spaced(word: str) -> str:
    """Part of an id in words: ``layers1.2`` becomes ``layers 1+2``, ``samples400`` becomes ``samples 400``."""
    found = OPTION.fullmatch(word)
    if found is None:
        return word
    name, value = found.groups()
    return f"{name} {value.replace('.', '+') if name == 'layers' else value}"


def place(cells: Mapping[str, Any], with_strength: bool = False) -> str:
    """The layers that an experiment gates, such as ``layers 1+2``, optionally with strength; empty for a baseline.

    A cell ``weak_sae`` that is true adds a warning: the SAE of one of these layers breaks a level of ``quality``.
    """
    if not cells["construction"]:
        return ""
    strength = f", clamp {cells['clamp_max']:g}, alpha {cells['alpha']:g}" if with_strength else ""
    base = "" if cells.get("method", TRANSMM) == TRANSMM else f"{_method_title(cells)}, "
    weak = " (weak SAE)" if cells.get("weak_sae") else ""
    return f"{base}layer{'s' if '+' in cells['layers'] else ''} {cells['layers']}{strength}{weak}"


def label(cells: Mapping[str, Any], with_strength: bool = False) -> str:
    """The full name of an experiment."""
    if not cells["construction"]:
        return kind(cells)
    first = {"Gated": "gated", "Controls": "control"}[group(cells)]
    return f"{first}, {place(cells, with_strength)}, {kind(cells)}"


def varies(frame: pd.DataFrame) -> bool:
    """Whether gates differ in clamp_max or alpha, so that their names must include the strength."""
    return len(frame[["clamp_max", "alpha"]].dropna().drop_duplicates()) > 1
