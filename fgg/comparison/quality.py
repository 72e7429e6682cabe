"""Whether a model and its SAEs are good enough for meaningful verdicts; if not, every table shows a warning.

The default levels are strict. They can be set in the configuration (``quality``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fgg.catalogue import CONSTRUCTIONS

LEVELS = {"model_gain": 0.25, "explained_variance": 0.8, "same_prediction": 0.95, "dead_share": 0.5}


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


def sae_warnings(layer: int, measured: Mapping[str, Any], levels: Mapping[str, float]) -> Iterator[str]:
    """Warnings about the SAE of a layer, from its metrics.json."""
    faults = []
    if _number(measured["explained_variance"]) < levels["explained_variance"]:
        faults.append(f"explained variance {_number(measured['explained_variance']):.2f}")
    same = measured.get("same_prediction")
    if same is not None and same < levels["same_prediction"]:
        faults.append(f"only {100 * same:.0f} % of predictions stay with its reconstruction in place")
    if (measured["dead_share"] or 0.0) > levels["dead_share"]:
        faults.append(f"{100 * measured['dead_share']:.0f} % of its features are dead")
    if faults:
        yield f"weak SAE of layer {layer}: {', '.join(faults)}"


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
    if gate and CONSTRUCTIONS[gate["construction"]].needs_sae:
        for layer in gate["layers"]:
            if layer in saes:
                yield from sae_warnings(layer, saes[layer], levels)


def _number(value: Any) -> float:
    return float("-inf") if value is None else float(value)
