"""The configuration: check it, fill in defaults and expand the grid of experiments. Does not import torch."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError, validators

from fgg.attribution.options import option_faults
from fgg.attribution.registry import find_method
from fgg.catalogue import EXTERNAL
from fgg.data.locations import own_paths, weights_faults
from fgg.errors import FggError
from fgg.experiments import TRANSMM, Config, candidates, dataset_config, experiments, needs_sae, prototype_split
from fgg.faithfulness import settings_checks
from fgg.faithfulness.registry import GIVEN, chosen, metrics, switched_on
from fgg.pipeline.config_messages import NAMES, explain, near, refuse, unfit
from fgg.pipeline.image_checks import PLANTED, image_faults, lacking_masks
from fgg.pipeline.metric_rules import expand, localisation_faults, metric_rules
from fgg.pipeline.sae_checks import sae_faults
from fgg.pipeline.seeds import instances
from fgg.registry import is_reference

DEPTHS = {"tiny": 12, "small": 12, "base": 12, "large": 24, "huge": 32}


def check(config: Mapping[str, Any], schema: str | Path) -> Config:
    """Validate a configuration against the schema file and fill in its defaults.

    Raises:
        FggError: lists every fault as ``key: what was found, what is allowed``.
    """
    rules = schema_rules(Path(schema))
    refuse(unfit(config))
    filled: Config = _with_defaults(_with_planted(json.loads(json.dumps(config))), rules, rules)
    faults = [explain(error) for error in _Validator(rules).iter_errors(filled)]
    if not faults:
        for name in filled["datasets"]:
            faults += _check_overrides(filled, name, rules)
    if not faults:
        faults = list(localisation_faults(filled))
        expand(filled)
        faults += _cross_checks(filled)
    refuse(faults)
    return filled


def _with_planted(config: Any) -> Any:
    """The configuration, in which datasets of planted images have a block ``planted``, so that its defaults are filled in."""
    datasets = config.get("datasets") if isinstance(config, dict) else None
    for own in datasets.values() if isinstance(datasets, dict) else ():
        if isinstance(own, dict) and own.get("source") == PLANTED and own.get(PLANTED) is None:
            own[PLANTED] = {}
    return config


@functools.cache
def schema_rules(schema: Path) -> Any:
    """The schema, with the entries of the registries inserted where it refers to them."""
    return _filled(yaml.safe_load(schema.read_text(encoding="utf-8")))


def _filled(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_filled(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("registry") == "metrics":
        return {**schema, **metric_rules()}
    return {key: _filled(value) for key, value in schema.items()}


def _known(_validator: Any, registry: str, found: Any, _schema: Any) -> Iterator[ValidationError]:
    """Validate the schema's keyword ``registry``: the value must be a name in a registry."""
    if registry in NAMES and isinstance(found, str):
        own, foreign = NAMES[registry]
        if found not in own() and not (foreign and is_reference(found)):
            yield ValidationError(f"{found!r} is unknown")


_Validator = validators.extend(Draft202012Validator, {"registry": _known})


def known_depth(model: Mapping[str, Any]) -> Any:
    """A model's number of blocks if its settings determine it: by kwargs, or by the size in timm's name."""
    if "depth" in model["kwargs"]:
        return model["kwargs"]["depth"]
    words = model["architecture"].split("_")
    return next(
        (depth for size, depth in DEPTHS.items() if words[0] in ("vit", "deit", "deit3") and size in words), None
    )


def _with_defaults(value: Any, schema: Any, root: Any) -> Any:
    """The value with the schema's defaults filled in, for properties, map values and references."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    if not isinstance(value, dict):
        return value
    filled = dict(value)
    for key, rule in schema.get("properties", {}).items():
        target = root["$defs"][rule["$ref"].rsplit("/", 1)[1]] if "$ref" in rule else rule
        if key not in filled and "default" in target:
            filled[key] = copy.deepcopy(target["default"])
        if key in filled:
            filled[key] = _with_defaults(filled[key], rule, root)
    values = schema.get("additionalProperties")
    if isinstance(values, dict):
        filled = {k: _with_defaults(v, values, root) for k, v in filled.items()}
    return filled


def _check_overrides(config: Config, name: str, rules: Any) -> Iterator[str]:
    """Validate a dataset's experiments and metrics after merging."""
    merged = dataset_config(config, name)
    for part in ("experiments", "metrics"):
        validator = _Validator({**rules["$defs"][part], "$defs": rules["$defs"]})
        for error in validator.iter_errors(merged[part]):
            yield explain(error, f"datasets.{name}.{part}.").replace("..", ".")


def _cross_checks(config: Config) -> Iterator[str]:
    """Faults in the combination of several keys."""
    for name in config["run"]:
        if name not in config["datasets"]:
            hint = near(name, config["datasets"])
            yield f"run: dataset {name!r} is not defined{hint}; defined: {', '.join(sorted(config['datasets']))}"
    known = [name for name in config["run"] if name in config["datasets"]]
    for name, own in instances(config).items():
        if name != own.dataset and name in config["run"]:
            yield f"datasets.{name}: the name is that of {own.dataset!r} with another seed; rename the dataset"
    for name in known:
        yield from _check_dataset(config, name)
    if config["cases"]["enabled"]:
        yield from _check_cases(config, known)


def _check_cases(config: Config, datasets: list[str]) -> Iterator[str]:
    for name in datasets:
        if prototype_split(config, name) == config["datasets"][name]["split"]:
            split = config["cases"]["split"]
            yield f"cases.split: {split!r} is what is explained of {name!r}; prototypes come from another split"
    if config["cases"]["experiments"] == "combined":
        return
    grids = {name: experiments(config, name) for name in datasets}
    for wanted in config["cases"]["experiments"]:
        found = [grid[wanted] for grid in grids.values() if wanted in grid]
        if not found:
            hint = near(wanted, {name for grid in grids.values() for name in grid})
            yield f"cases.experiments: {wanted!r} is not among the experiments{hint}"
        elif not needs_sae(found[0]) or found[0]["control"] or found[0]["method"] != TRANSMM:
            yield f"cases.experiments: {wanted!r} has no gate made of SAE features; name gated experiments that read an SAE"
    for name, grid in grids.items():
        if "transmm" not in grid and any(wanted in grid for wanted in config["cases"]["experiments"]):
            yield f"cases.experiments: changes are counted from transmm; add it to the baselines of {name!r}"


def _check_dataset(config: Config, name: str) -> Iterator[str]:
    own = dataset_config(config, name)
    place = f"datasets.{name}"
    if own["source"] == "image_folder" and not own["path"]:
        yield f"{place}.path: missing; an image_folder needs the folder with the images"
    if abs(sum(own["fractions"].values()) - 1) > 1e-9:
        yield f"{place}.fractions: {own['fractions']} do not add up to 1"
    yield from (f"{place}.{key}: {why}" for key, why in image_faults(own))
    seeds = {each.seeds["sae"] for each in instances(config).values() if each.dataset == name}
    yield from (f"{place}.sae.{key}: {why}" for key, why in sae_faults(own, len(seeds) > 1))
    try:
        grid = experiments(config, name)
    except FggError as error:
        yield f"{place}: {error}"
        return
    yield from (f"{place}.metrics{fault}" for fault in _metric_faults(own["metrics"]))
    if not grid:
        yield f"experiments: none for dataset {name!r}; name `baselines`, or `gated.layers`"
        return
    if own["experiments"]["gated"]["layers"] and not any("gate" in e for e in grid.values()):
        yield "experiments.gated.shuffle_decoder: only a combined gate has a shuffled control; add false, or 'combined'"
    if config["baseline"] not in grid:
        some = ", ".join(sorted(grid)[:30])
        yield f"baseline: {config['baseline']!r} is not among the experiments of {name!r}; those are: {some}"
    if own["split"] == "val" and any(each.get("choose") for each in grid.values()):
        yield f"{place}.split: 'val' is what `choose` chooses on; explain another split"
    if config["select"]["enabled"]:
        if own["split"] == "val":
            yield f"{place}.split: 'val' is what `select` chooses on; explain another split"
        if not candidates(grid):
            yield f"select: dataset {name!r} has no gated experiment to choose from"
    head = own["model"]["zero_shot"]
    if head and own["model"]["weights"] == "train":
        yield f"{place}.model.weights: 'train' knows no texts; with zero_shot give 'pretrained', or the path of a file"
    for template in head["templates"] if head else []:
        if "{name}" not in template:
            yield f"{place}.model.zero_shot.templates: {template!r} lacks {{name}}; write 'a photo of a/an {{name}}'"
    kwargs = own["model"]["kwargs"]
    depth = known_depth(own["model"])
    if depth is not None and (not isinstance(depth, int) or depth < 1):
        yield f"{place}.model.kwargs.depth: {depth!r} is not a number of blocks"
        depth = None
    sizes = [kwargs.get(key) for key in ("img_size", "patch_size")]
    if all(isinstance(size, int) and size > 0 for size in sizes):
        patches = (sizes[0] // sizes[1]) ** 2
        for key, why in settings_checks.faults(own["metrics"], patches, config["protocol"]):
            yield f"{place}.metrics.{key}: {why}"
    wanted = [("sae.layers", own["sae"]["layers"])]
    wanted += [("experiments.gated.layers", layers) for layers in own["experiments"]["gated"]["layers"]]
    for key, layers in wanted:
        for layer in layers:
            if depth is not None and layer >= depth:
                last = depth - 1
                yield f"{place}.{key}: layer {layer} is beyond the model's depth {depth}; layers are 0 to {last}"
    for name, each in grid.items():
        if lacking := lacking_masks(each["method"], own):
            yield f"{place}.experiments: {name} reads the {lacking} of planted images, which this dataset has not; leave it out"
        if each.get("options") and each["method"] != EXTERNAL:
            for why in option_faults(find_method(each["method"]), each["options"], depth):
                yield f"{place}.experiments.{name}: {why}"
    missing = {
        layer
        for e in grid.values()
        if needs_sae(e)
        for layer in e["gate"]["layers"]
        if layer not in own["sae"]["layers"]
    }
    if missing:
        yield (
            f"{place}.sae.layers: {own['sae']['layers']} has no SAE for the gated layers "
            f"{sorted(missing)}; add them, or take them out of experiments.gated.layers"
        )
    yield from (f"{place}.{fault}" for fault in weights_faults(own))
    kind = own["sae"]["kind"]
    if kind != "trained" and own_paths(own["sae"]["weights"], own["sae"]["layers"]):
        yield f"{place}.sae.kind: {kind!r} is made here, but sae.weights names existing SAEs; take one of the two out"


def _metric_faults(settings: Mapping[str, Any]) -> Iterator[str]:
    """Faults in a dataset's ``metrics`` that the schema cannot find: settings of functions of other packages."""
    try:
        found = chosen(switched_on(settings))
    except FggError as error:
        yield f": {error}"
        return
    if not found:
        yield f": all are switched off; keep one of {', '.join(metrics())}"
    for entry in found.values():
        if entry.own:
            continue
        rules = {"type": "object", "properties": dict(entry.settings)}
        for fault in Draft202012Validator(rules).iter_errors(settings[entry.reference]):
            yield f".{explain(fault, f'{entry.reference}.')}"
        known = [name for name in entry.declaration.parameters if name not in GIVEN] + ["fill"] * entry.perturbs
        for key in settings[entry.reference]:
            if key not in known:
                yield f".{entry.reference}: unknown key {key!r}{near(key, known)}; allowed: {', '.join(known) or 'none'}"
