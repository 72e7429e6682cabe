"""The rules of the key ``metrics`` in the configuration, and what its key ``localisation`` means. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fgg.catalogue import FILLS
from fgg.errors import FggError
from fgg.experiments import Config, dataset_config
from fgg.faithfulness.registry import LOCALISATION, find_metric, localising, metrics, switched_on
from fgg.pipeline.image_checks import has_masks
from fgg.registry import REFERENCE

ONE_FILL: dict[str, Any] = {"anyOf": [{"enum": [*FILLS]}, {"type": "number"}]}
FILL_LIST: dict[str, Any] = {"type": "array", "items": ONE_FILL, "minItems": 1, "uniqueItems": True}
ANY_FILL = ({"type": "null"}, {"enum": [*FILLS]}, {"type": "number"}, FILL_LIST)


def metric_rules() -> Any:
    """The rules of ``metrics``: a block for each metric of this package, and one for functions of other packages."""
    blocks: dict[str, Any] = {
        "fills": {
            "description": f"What replaces a patch: {', '.join(FILLS)}, or a number. Metrics are computed with each.",
            **FILL_LIST,
            "default": ["mean"],
        },
        "measurable": {
            "description": "An image is measurable if its probability falls by `least_drop` when everything is filled.",
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "least_drop": _share("The smallest fall of the probability, from 0 to 1.", 0.05),
                "least_cue_drop": _share(
                    "The smallest fall of the probability, from 0 to 1, when a planted cue is taken out: the model uses it.",
                    0.25,
                ),
            },
            "default": {},
        },
        LOCALISATION: {
            "description": f"All metrics that compare a map with a mask: {', '.join(localising())}. They are computed for "
            "datasets with masks unless this is null.",
            "type": ["object", "null"],
            "additionalProperties": False,
            "properties": {},
        },
    }
    own_fill = {
        "fill": {"description": "Fills of this metric; null takes `fills`.", "anyOf": [*ANY_FILL], "default": None}
    }
    blocks |= {
        name: {
            "description": f"{entry.title}: {entry.definition}",
            "type": ["object", "null"],
            "additionalProperties": False,
            "properties": dict(entry.settings) | (own_fill if entry.perturbs else {}),
            **({"default": {}} if entry.default else {}),
        }
        for name, entry in metrics().items()
    }
    others = {REFERENCE.pattern: {"description": "Settings of a metric of one's own.", "type": ["object", "null"]}}
    return {"properties": blocks, "patternProperties": others, "additionalProperties": False}


def _share(description: str, default: float) -> dict[str, Any]:
    return {"description": description, "type": "number", "minimum": 0, "maximum": 1, "default": default}


def localisation_faults(config: Config) -> Iterator[str]:
    """Faults of metrics that need masks, before `expand`: the dataset that asks for them, or all of the run, has none."""
    known = {name: config["datasets"][name] for name in config["run"] if name in config["datasets"]}
    for name, own in known.items():
        for key in () if has_masks(own) else _asked(own["metrics"]):
            yield f"datasets.{name}.metrics.{key}: the dataset has no masks; set `masks`, or leave the metric out"
    if known and not any(has_masks(own) for own in known.values()):
        for key in _asked(config["metrics"]):
            yield f"metrics.{key}: no dataset of the run has masks; set `masks` of one, or leave the metric out"


def _asked(settings: Config) -> list[str]:
    """The keys of ``metrics`` that are switched on and need masks."""
    names = [LOCALISATION] if settings.get(LOCALISATION) is not None else []
    return names + [name for name in switched_on(settings) if _localises(name)]


def _localises(name: str) -> bool:
    try:
        return find_metric(name).localises
    except FggError:
        return False  # the check of the metrics says that it is unknown


def expand(config: Config) -> None:
    """Put the metrics that need masks into the ``metrics`` of each dataset with masks, and out of those of the others.

    Metrics that the configuration names keep their settings.
    """
    for name, own in config["datasets"].items():
        merged = dataset_config(config, name)["metrics"]
        if not has_masks(own):
            own["metrics"] |= {key: None for key in _asked(merged) if key != LOCALISATION}
        elif LOCALISATION not in merged or merged[LOCALISATION] is not None:
            own["metrics"] |= {key: {} for key in localising() if key not in merged}
