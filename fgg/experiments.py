"""The experiments of a configuration: the grid expanded, the id of each, and which of them a stage is about. Imports no torch."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fgg.attribution.options import option_faults
from fgg.attribution.registry import Method, find_method, methods
from fgg.catalogue import CONSTRUCTIONS, CONTROLS, DICTIONARIES, EXTERNAL, POWERS, SANITY
from fgg.errors import FggError

Config = dict[str, Any]
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
TRANSMM = "transmm"  # the method whose gate the verdicts are about
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

    Settings are ``{"method": NAME}`` for a baseline, with ``options`` and ``choose`` where the configuration has them;
    ``{"method": "external", "maps": FILE}`` for maps that are given; ``{"method": "transmm", "control": "power",
    "power": P}`` for TransMM to a power; else ``{"method": NAME, "gate": {...}, "control": None | one of CONTROLS or DICTIONARIES}``. An
    id holds only what enters the numbers. A gated method's map without the gate is added where the baselines lack it.

    Raises:
        FggError: two experiments would share an id, a method has no place for a gate or lacks an option, or a method of
            another package is not there.
    """
    grid = dataset_config(config, dataset)["experiments"]
    found: dict[str, Config] = {}
    for entry in grid["baselines"]:
        _add(found, *_baseline(entry))
    for name, maps in grid.get("external", {}).items():
        _add(found, name, {"method": EXTERNAL, "maps": str(Path(maps).expanduser())})
    gated = grid["gated"]
    bases = [_gateable(name) for name in gated.get("methods", [TRANSMM])] if gated["layers"] else []
    for base, layers in itertools.product(bases, gated["layers"]):
        name = ungated_id(base.reference, layers)
        layered: Config = {"method": base.reference}
        if "layers" in base.options:
            layered["options"] = {"layers": sorted(layers)}
        if found.get(name, layered) != layered:
            raise FggError(
                f"experiments: {name!r} is the id of a gated method's map without the gate; rename the other one"
            )
        if base.name != TRANSMM and name not in found:
            _add(found, name, layered)
    gated_transmm = any(base.name == TRANSMM for base in bases)
    if POWERS in grid["controls"] and gated_transmm and "combined" in gated["construction"]:
        for power in grid["powers"]:
            name = f"transmm-p{_number(power)}"
            _add(found, name, {"method": TRANSMM, "control": "power", "power": float(power)})
    own_controls = [name for name in grid["controls"] if name != POWERS]
    for base, layers, construction, clamp_max, alpha, shuffle in itertools.product(
        bases, gated["layers"], gated["construction"], gated["clamp_max"], gated["alpha"], gated["shuffle_decoder"]
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
            name = experiment_id(gate, control, base.name)
            found[name] = {"method": base.reference, "gate": gate, "control": control}
    return found | _sanity_checks(found, grid.get("sanity", []))


def _baseline(entry: str | Mapping[str, Any]) -> tuple[str, Config]:
    """The id and the settings of an entry of ``baselines``."""
    if isinstance(entry, str):
        return find_method(entry).name, {"method": entry}
    own = find_method(entry["method"])
    given = {key: entry[key] for key in ("options", "choose") if entry.get(key)}
    candidates = [{key: each} for key, values in given.get("choose", {}).items() for each in values]
    for options in [given.get("options", {}), *candidates]:
        if fault := next(option_faults(own, options), None):
            raise FggError(f"experiments.baselines: {fault}")
    if twice := set(given.get("choose", {})) & set(given.get("options", {})):
        raise FggError(f"experiments.baselines: {own.name}: {min(twice)} is both given and chosen; keep one of the two")
    words = [f"{key}{_word(value)}" for key, value in given.get("options", {}).items()]
    words += [f"{key}-chosen" for key in given.get("choose", {})]
    name = entry.get("name") or "-".join([own.name, *words])
    if not ID.fullmatch(name):
        raise FggError(f"experiments.baselines: {name!r} cannot be a file's name; give the entry a `name`")
    if name != own.name and name in methods():
        raise FggError(f"experiments.baselines: {name!r} is the name of another method; give the entry another `name`")
    return name, {"method": entry["method"], **given}


def _word(value: Any) -> str:
    """An option's value in an id."""
    if isinstance(value, list):
        return ".".join(map(_word, value))
    return _number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def _gateable(name: str) -> Method:
    own = find_method(name)
    if not own.gateable:
        known = ", ".join(key for key, each in methods().items() if each.gateable)
        raise FggError(f"experiments.gated.methods: {name!r} has no place for a gate; choose from {known}")
    return own


def ungated_id(method: str, layers: Sequence[int]) -> str:
    """The id of a gated method's map without the gate, such as ``transmm`` or ``input_x_gradient-layers1.2``."""
    own = find_method(method)
    return f"{own.name}-layers{_word(sorted(layers))}" if "layers" in own.options else own.name


def _add(found: dict[str, Config], name: str, settings: Config) -> None:
    if name in found or name == EXTERNAL or name.startswith("gated-"):
        raise FggError(
            f"experiments: the name {name!r} is taken; give the other one another `name`, or a function of your own @method(name=…)"
        )
    found[name] = settings


def _sanity_checks(found: Mapping[str, Config], checks: list[str]) -> dict[str, Config]:
    """For each method and each plain combined gate, what it gives when the model or the SAE is randomised."""
    added = {}
    for check_name, (name, settings) in itertools.product(checks, found.items()):
        gated = is_plain_combined(settings)
        plain = "gate" not in settings and not settings.get("control")
        model_made = plain and settings["method"] != EXTERNAL and role(settings) not in ("floor", "reference")
        if gated or (model_made and check_name == "randomized_model"):
            added[f"{name}-{SANITY[check_name]}"] = {**settings, "control": check_name}
    return added


def role(settings: Mapping[str, Any]) -> str:
    """What an experiment's method is: one of `fgg.attribution.registry.ROLES`."""
    return "method" if settings["method"] == EXTERNAL else find_method(settings["method"]).role


def is_plain_combined(settings: Mapping[str, Any]) -> bool:
    """Whether an experiment is a combined gate, and no control of one."""
    gate = settings.get("gate")
    return bool(
        gate and gate["construction"] == "combined" and not gate["shuffle_decoder"] and not settings.get("control")
    )


def candidates(grid: Mapping[str, Config]) -> list[str]:
    """The experiments that a selection chooses from: TransMM's gates that read an SAE, and no controls."""
    return [
        name
        for name, settings in grid.items()
        if needs_sae(settings)
        and settings["method"] == TRANSMM
        and not settings["control"]
        and not settings["gate"]["shuffle_decoder"]
    ]


def case_experiments(config: Config, dataset: str) -> list[str]:
    """The experiments of a dataset that get case studies.

    None where they are switched off, or where the grid lacks TransMM, from which a gate's changes are counted; never
    the baseline, which gains nothing over itself.
    """
    cases, grid = config["cases"], experiments(config, dataset)
    if not cases["enabled"] or TRANSMM not in grid:
        return []
    wanted = cases["experiments"]
    if wanted == "combined":
        wanted = [name for name, own in grid.items() if is_plain_combined(own) and own["method"] == TRANSMM]
    return [name for name in grid if name in wanted and name != config["baseline"]]


def prototype_split(config: Config, dataset: str) -> str:
    """The split that a dataset's prototypes come from; never the explained one."""
    explained = config["datasets"][dataset]["split"]
    return config["cases"]["split"] or ("val" if explained == "train" else "train")


def experiment_id(gate: Mapping[str, Any], control: str | None = None, method: str = TRANSMM) -> str:
    """A gated experiment's readable id, such as ``gated-l1.2-combined-c10-a1-permuted``; the name of a method other than
    TransMM follows ``gated``.
    """
    clamp_max, alpha = (_number(gate[key]) for key in ("clamp_max", "alpha"))
    base = [] if method == TRANSMM else [method]
    parts = ["gated", *base, f"l{_word(sorted(gate['layers']))}", gate["construction"], f"c{clamp_max}", f"a{alpha}"]
    if gate.get("shuffle_decoder"):
        parts.append("shuffled")
    if control:
        parts.append(DICTIONARIES[control][0] if control in DICTIONARIES else CONTROLS[control])
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
