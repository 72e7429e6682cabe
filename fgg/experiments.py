"""The experiments of a configuration: the grid expanded, the id of each, and which of them a stage is about. Imports no torch."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

from fgg.attribution.registry import find_method
from fgg.catalogue import CONSTRUCTIONS, CONTROLS, EXTERNAL, POWERS, SANITY
from fgg.errors import FggError

Config = dict[str, Any]
RESHAPED = ("sharpened", "gate_values", "gate_order")  # controls that are made of the gated map and TransMM's


def dataset_config(config: Config, dataset: str) -> Config:
    """A dataset's settings, with the general experiments and metrics merged under its own."""
    own = copy.deepcopy(config["datasets"][dataset])
    for part in ("experiments", "metrics"):
        own[part] = _merge(config.get(part, {}), own.get(part, {}))
    for key in ("target", "sample"):
        own[key] = config.get(key) if own.get(key) is None else own[key]
    return own


def experiments(config: Config, dataset: str) -> dict[str, Config]:
    """Expand the grid of a dataset: experiment id -> its settings.

    Settings are ``{"method": NAME}`` for a baseline, ``{"method": "external", "maps": FILE}`` for maps that are given,
    ``{"method": "transmm", "control": "power", "power": P}`` for TransMM to a power, else
    ``{"method": "transmm", "gate": {...}, "control": None | one of CONTROLS}``. An id holds only what enters the numbers.

    Raises:
        FggError: two experiments would share an id, or a method of another package is not there.
    """
    grid = dataset_config(config, dataset)["experiments"]
    found: dict[str, Config] = {}
    for name in grid["baselines"]:
        _add(found, find_method(name).name, {"method": name})
    for name, maps in grid.get("external", {}).items():
        _add(found, name, {"method": EXTERNAL, "maps": maps})
    gated = grid["gated"]
    if POWERS in grid["controls"] and gated["layers"] and "combined" in gated["construction"]:
        for power in grid["powers"]:
            name = f"transmm-p{repr(float(power)).removesuffix('.0')}"
            _add(found, name, {"method": "transmm", "control": "power", "power": float(power)})
    own_controls = [name for name in grid["controls"] if name != POWERS]
    for layers, construction, clamp_max, alpha, shuffle in itertools.product(
        gated["layers"], gated["construction"], gated["clamp_max"], gated["alpha"], gated["shuffle_decoder"]
    ):
        if shuffle and construction != "combined":
            continue
        gate = {
            "layers": sorted(layers),
            "construction": construction,
            "clamp_max": float(clamp_max),
            "alpha": float(alpha),
            "shuffle_decoder": shuffle,
        }
        controls = [None, *own_controls] if construction == "combined" and not shuffle else [None]
        for control in controls:
            found[experiment_id(gate, control)] = {"method": "transmm", "gate": gate, "control": control}
    return found | _sanity_checks(found, grid.get("sanity", []))


def _add(found: dict[str, Config], name: str, settings: Config) -> None:
    if name in found or name == EXTERNAL or name.startswith("gated-"):
        raise FggError(
            f"experiments: the name {name!r} is taken; give the other one another name, a method with @method(name=…)"
        )
    found[name] = settings


def _sanity_checks(found: Mapping[str, Config], checks: list[str]) -> dict[str, Config]:
    """For each method and each plain combined gate, what it gives when the model or the SAE is randomised."""
    added = {}
    for check_name, (name, settings) in itertools.product(checks, found.items()):
        gated = is_plain_combined(settings)
        plain = "gate" not in settings and not settings.get("control")
        model_made = plain and settings["method"] not in ("random", EXTERNAL)
        if gated or (model_made and check_name == "randomized_model"):
            added[f"{name}-{SANITY[check_name]}"] = {**settings, "control": check_name}
    return added


def is_plain_combined(settings: Mapping[str, Any]) -> bool:
    """Whether an experiment is a combined gate, and no control of one."""
    gate = settings.get("gate")
    return bool(
        gate and gate["construction"] == "combined" and not gate["shuffle_decoder"] and not settings.get("control")
    )


def candidates(grid: Mapping[str, Config]) -> list[str]:
    """The experiments that a selection chooses from: gates that read an SAE, and no controls."""
    return [
        name
        for name, settings in grid.items()
        if needs_sae(settings) and not settings["control"] and not settings["gate"]["shuffle_decoder"]
    ]


def case_experiments(config: Config, dataset: str) -> list[str]:
    """The experiments of a dataset that get case studies.

    None where they are switched off, or where the grid lacks TransMM, from which a gate's changes are counted; never
    the baseline, which gains nothing over itself.
    """
    cases, grid = config["cases"], experiments(config, dataset)
    if not cases["enabled"] or "transmm" not in grid:
        return []
    wanted = cases["experiments"]
    if wanted == "combined":
        wanted = [name for name, settings in grid.items() if is_plain_combined(settings)]
    return [name for name in grid if name in wanted and name != config["baseline"]]


def prototype_split(config: Config, dataset: str) -> str:
    """The split that a dataset's prototypes come from; never the explained one."""
    explained = config["datasets"][dataset]["split"]
    return config["cases"]["split"] or ("val" if explained == "train" else "train")


def experiment_id(gate: Mapping[str, Any], control: str | None = None) -> str:
    """A gated experiment's readable id, such as ``gated-l1.2-combined-c10-a1-permuted``."""
    layers = ".".join(str(layer) for layer in sorted(gate["layers"]))
    clamp_max, alpha = (repr(float(gate[key])).removesuffix(".0") for key in ("clamp_max", "alpha"))
    parts = ["gated", f"l{layers}", gate["construction"], f"c{clamp_max}", f"a{alpha}"]
    if gate.get("shuffle_decoder"):
        parts.append("shuffled")
    if control:
        parts.append(CONTROLS[control])
    return "-".join(parts)


def needs_sae(settings: Mapping[str, Any]) -> bool:
    """Whether an experiment of the grid reads SAEs."""
    return "gate" in settings and CONSTRUCTIONS[settings["gate"]["construction"]].needs_sae


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Config:
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def has_gates(settings: Mapping[str, Any]) -> bool:
    """Whether an experiment writes a table of gates; controls that only reshape the gated map have none of their own."""
    return "gate" in settings and settings["control"] not in RESHAPED


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """An experiment's settings as table cells; layers (1, 2) become ``1+2``, and what a method lacks is None."""
    gate = settings.get("gate")
    if not gate:
        empty = ("layers", "construction", "clamp_max", "alpha", "shuffle_decoder")
        return {"method": settings["method"], **dict.fromkeys(empty), "control": settings.get("control")}
    layers = "+".join(str(layer) for layer in gate["layers"])
    return {"method": settings["method"], **gate, "layers": layers, "control": settings.get("control")}
