"""Names of experiments for people: ``gated, layers 1+2, activation × gradient``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fgg.catalogue import CONSTRUCTIONS, METHODS, METRICS

if TYPE_CHECKING:
    import pandas as pd

CONTROL_TITLES = {
    "permuted_gate": "permuted gate",
    "sharpened": "sharpened TransMM",
    "randomized_model": "randomised model",
    "randomized_sae": "randomised SAE",
}
PARTNER_TITLES = {
    "transmm": "TransMM",
    "shuffled": "shuffled decoder",
    "permuted": "permuted gate",
    "sharpened": "sharpened TransMM",
} | {name: entry.title.replace(" x ", " × ") for name, entry in CONSTRUCTIONS.items()}
GROUPS = ("Baselines", "Gated", "Controls")
# The figures of a dataset, in the order of the report: name of the file -> title.
FIGURES = {
    "overview": "Overview of the maps",
    **{name: metric.title for name, metric in METRICS.items()},
    "hypotheses": "Hypotheses",
    "paired_differences": "Paired differences",
    "heat_map": "Layers and constructions",
    "pixel_flipping_curves": "Pixel Flipping curves",
    "gates": "Gates",
    "sae_quality": "Quality of the SAEs",
    "sampling_error": "Error of Faithfulness Correlation",
}
# The pages of the report: name of the file -> category and title. Some are there only where they are switched on.
PAGES = {
    "README": ("Headline", "Results in words"),
    "summary": ("Tables", "Summary"),
    "hypotheses": ("Tables", "Hypotheses"),
    "comparison": ("Tables", "All statistics"),
    "selection": ("Tables", "Selection"),
    "selection_ranking": ("Tables", "Selection, all candidates"),
    "sanity": ("Tables", "Sanity checks"),
    "cases": ("Tables", "Case studies, patch by patch"),
    "features": ("Tables", "Features"),
    "configuration": ("Run", "Configuration"),
    "versions": ("Run", "Versions and machine"),
}


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """An experiment's settings as table cells; layers (1, 2) become ``1+2``, and what a method lacks is None."""
    gate = settings.get("gate")
    if not gate:
        empty = ("layers", "construction", "clamp_max", "alpha", "shuffle_decoder")
        return {"method": settings["method"], **dict.fromkeys(empty), "control": settings.get("control")}
    layers = "+".join(str(layer) for layer in gate["layers"])
    return {"method": settings["method"], **gate, "layers": layers, "control": settings.get("control")}


def group(cells: Mapping[str, Any]) -> str:
    """One of `GROUPS`, for an experiment's table cells; a shuffled decoder is a control."""
    if cells["control"] or cells["shuffle_decoder"]:
        return "Controls"
    return "Gated" if cells["construction"] else "Baselines"


def kind(cells: Mapping[str, Any]) -> str:
    """What distinguishes an experiment from its neighbours on the same layers, such as ``activation × gradient``."""
    if not cells["construction"]:
        title = METHODS[cells["method"]].title if cells["method"] in METHODS else cells["method"]
        return f"{title}, {CONTROL_TITLES.get(cells['control'], cells['control'])}" if cells["control"] else title
    if cells["control"]:
        return CONTROL_TITLES.get(cells["control"], cells["control"])
    return "shuffled decoder" if cells["shuffle_decoder"] else PARTNER_TITLES[cells["construction"]]


def place(cells: Mapping[str, Any], with_strength: bool = False) -> str:
    """Where an experiment gates, such as ``layers 1+2``, and if wanted how strongly; empty for a baseline."""
    if not cells["construction"]:
        return ""
    strength = f", clamp {cells['clamp_max']:g}, alpha {cells['alpha']:g}" if with_strength else ""
    return f"layer{'s' if '+' in cells['layers'] else ''} {cells['layers']}{strength}"


def label(cells: Mapping[str, Any], with_strength: bool = False) -> str:
    """The full name of an experiment."""
    if not cells["construction"]:
        return kind(cells)
    first = {"Gated": "gated", "Controls": "control"}[group(cells)]
    return f"{first}, {place(cells, with_strength)}, {kind(cells)}"


def varies(frame: pd.DataFrame) -> bool:
    """Whether gates differ in clamp_max or alpha, so that their names must tell."""
    return len(frame[["clamp_max", "alpha"]].dropna().drop_duplicates()) > 1
