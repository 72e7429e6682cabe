"""Whether a model and its SAEs are good enough for meaningful verdicts; if not, every table shows a warning.

The default levels are strict. They can be set in the configuration (``quality``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fgg.catalogue import CONSTRUCTIONS, DICTIONARIES
from fgg.tables import read_json

LEVELS = {
    "model_gain": 0.25,
    "explained_variance": 0.8,
    "same_prediction": 0.95,
    "accuracy_loss": 0.02,
    "kl": 0.1,
    "dead_share": 0.5,
    "dense_share": 0.2,
}
LOWEST = ("explained_variance", "same_prediction")  # the least that is allowed; the others are the most
SAE_LEVELS = tuple(name for name in LEVELS if name != "model_gain")


def model_warnings(record: Mapping[str, Any], split: str, levels: Mapping[str, float]) -> Iterator[str]:
    """Warnings about a model, from its model.json: it must make fewer errors on a split than the best simple baseline.

    The level ``model_gain`` is the share of the baseline's errors that it must avoid. What was not measured is not judged.
    """
    found = (record.get("accuracy") or {}).get(split) or {}
    simple = {
        "always the most frequent class": found.get("majority_accuracy"),
        "logistic regression on grey pixels": found.get("logistic_regression_accuracy"),
    }
    known = {name: float(value) for name, value in simple.items() if value is not None}
    if found.get("accuracy") is None or not known:
        return
    name, best = max(known.items(), key=lambda entry: entry[1])
    if 1 - found["accuracy"] > (1 - best) * (1 - levels["model_gain"]):
        yield f"weak model: accuracy {found['accuracy']:.3f} on {split}, {name} {best:.3f}"


def sae_passes(measured: Mapping[str, Any], levels: Mapping[str, float]) -> dict[str, bool | None]:
    """Which of the levels `SAE_LEVELS` an SAE keeps, from its metrics.json; None for what was not measured."""
    found: dict[str, bool | None] = {}
    for name in SAE_LEVELS:
        value = _value(measured, name)
        found[name] = None if value is None else (value >= levels[name] if name in LOWEST else value <= levels[name])
    return found


def sae_warnings(layer: int, measured: Mapping[str, Any], levels: Mapping[str, float]) -> Iterator[str]:
    """Warnings about the SAE of a layer, from its metrics.json."""
    texts = {
        "explained_variance": "explained variance {:.2f}",
        "same_prediction": "only {:.0%} of predictions stay with its reconstruction in place",
        "accuracy_loss": "the accuracy falls by {:.1%} with its reconstruction in place",
        "kl": "the probabilities change by a KL divergence of {:.2g} nats with its reconstruction in place",
        "dead_share": "{:.0%} of its features are dead",
        "dense_share": "{:.0%} of its features are dense",
    }
    passed = sae_passes(measured, levels)
    faults = [texts[name].format(_value(measured, name)).replace("%", " %") for name in texts if passed[name] is False]
    if faults:
        yield f"weak SAE of layer {layer}: {', '.join(faults)}"


def folder_warning(folder: Path, layer: int, levels: Mapping[str, float]) -> str:
    """The warning about the SAE of a folder, for where its features are shown; empty if it is sound or was not measured.

    Raises:
        FggError: its metrics.json is damaged.
    """
    path = folder / "metrics.json"
    return "; ".join(sae_warnings(layer, read_json(path), levels)) if path.is_file() else ""


def weak_saes(notes: Iterable[Any]) -> dict[int, str]:
    """Layer -> the warning about its SAE, from the column ``note`` of a comparison."""
    parts = {part for note in notes if isinstance(note, str) for part in note.split("; ")}
    found = {part: re.match(r"weak SAE of layer (\d+):", part) for part in sorted(parts)}
    return {int(match[1]): part for part, match in found.items() if match}


def _value(measured: Mapping[str, Any], name: str) -> float | None:
    """A measurement that has a level; None if it was not made. Explained variance that is undefined is minus infinity."""
    if name == "accuracy_loss":
        before, after = measured.get("accuracy_before"), measured.get("accuracy_after")
        return None if before is None or after is None else before - after
    if name == "explained_variance":
        value = measured["explained_variance"]
        return float("-inf") if value is None else float(value)
    return measured.get(name)


def warnings(
    settings: Mapping[str, Any],
    model: Mapping[str, Any],
    saes: Mapping[int, Mapping[str, Any]],
    split: str,
    levels: Mapping[str, float],
) -> Iterator[str]:
    """The warnings about an experiment: those of the model, and of the SAEs that it reads.

    Args:
        settings: settings of the experiment.
        model: content of model.json.
        saes: layer -> content of metrics.json.
        split: the explained split.
    """
    yield from model_warnings(model, split, levels)
    gate = settings.get("gate")
    own = settings.get("control") not in DICTIONARIES  # the SAEs of those controls are not the ones that were measured
    if gate and own and CONSTRUCTIONS[gate["construction"]].needs_sae:
        for layer in gate["layers"]:
            if layer in saes:
                yield from sae_warnings(layer, saes[layer], levels)
