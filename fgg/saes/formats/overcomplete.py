"""SAEs of overcomplete (Fel et al. 2025): a whole module as torch.save writes it, or its state dict with ``config.json``.

overcomplete has no function to save an SAE. A whole module is read without its code: its parts become records
(`fgg.saes.formats.torch_files`). A state dict lacks what the class was made with; ``config.json`` beside it, or the file
itself as ``{"state_dict": ..., "class": ..., ...}``, gives it under the names of the class's own arguments: ``class``,
``top_k`` or ``k``, ``running_threshold``, ``normalization`` of the dictionary, ``delta``; and ``hook_name`` and ``layer``.

SAE, TopKSAE, BatchTopKSAE, JumpSAE, their archetypal variants and MpSAE are read, if their encoder is linear. All are used
as overcomplete uses them after ``eval()``. Where all products of the pursuit are negative, MpSAE goes on with the largest, and
sae-lens takes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fgg.data.settings_files import read_settings
from fgg.errors import FggError
from fgg.models.checkpoint_files import ZIP_START
from fgg.saes.formats.registry import sae_format
from fgg.saes.formats.torch_files import (
    MODULES,
    Record,
    check_one_place,
    dense,
    keep_place,
    matrix,
    named,
    per_feature,
    reaching,
    read_weights,
    whole,
)
from fgg.saes.formats.weight_bytes import header_of, read_bytes
from fgg.saes.sae import build_sae

PACKAGE = "overcomplete"
CONFIG_FILE, SUFFIXES = "config.json", (".pt", ".pth", ".safetensors")
MARKS = (b"overcomplete.sae", b"dictionary._weights", b"dictionary.Relax")
TOP_K, JUMP = ("TopKSAE", "RATopKSAE"), ("JumpSAE", "RAJumpSAE")
CLASSES = ("SAE", *TOP_K, "BatchTopKSAE", *JUMP, "MpSAE")
REFUSED = {
    "QSAE": "its codes are quantised, which no SAE of sae-lens computes",
    "OMPSAE": "its codes solve a least-squares problem per token, which no SAE of sae-lens does",
}
ARGUMENTS = ("top_k", "k", "running_threshold")
LINEAR, BATCH_NORM = "encoder.final_block.0.", "encoder.final_block.1."
BATCH_NORM_EPS = 1e-5
SMALL = 1e-8  # overcomplete adds it to what it divides by
REMEDY = (
    "save it with torch.save(sae.state_dict(), 'sae.pt'), and beside it config.json with class (type(sae).__name__) and its "
    "arguments, such as top_k, running_threshold, normalization (of the dictionary) and delta"
)


@sae_format(name="overcomplete SAE", files="a whole module, or its state dict with config.json, as .pt", place=400)
def overcomplete(path: Path) -> Any | None:
    """Load an SAE of overcomplete: the file, or its folder.

    Raises:
        FggError: files are damaged, a pickle names anything but tensors and classes of torch.nn and overcomplete, settings
            are missing, or the SAE cannot be computed by one of sae-lens.
    """
    file = path if path.is_file() else _weights_in(path)
    if file is None or file.suffix not in SUFFIXES:
        return None
    with file.open("rb") as opened:
        if file.suffix != ".safetensors" and not opened.read(len(ZIP_START)).startswith(ZIP_START):
            return None
    with named(file):
        data = header_of(file) if file.suffix == ".safetensors" else read_bytes(file)
    if not any(mark in data for mark in MARKS):
        return None
    with named(file):
        beside = file.parent / CONFIG_FILE
        config = read_settings(beside) if beside.is_file() else {}
        try:
            content = read_weights(file, (PACKAGE, MODULES))
        except FggError as error:
            raise FggError(f"{error}; {REMEDY}" if "its pickle asks for" in str(error) else str(error)) from None
        if isinstance(content, Record):
            config, content = {**config, **_settings_of(content)}, _flat(content)
        elif isinstance(content, Mapping) and "state_dict" in content:
            own = {key: value for key, value in content.items() if key != "state_dict"}
            config, content = {**config, **own}, content["state_dict"]
        return _build(config, content)


def _weights_in(folder: Path) -> Path | None:
    """The folder's only file of weights."""
    found = [file for file in sorted(folder.glob("*")) if file.suffix in SUFFIXES and file.is_file()]
    return found[0] if len(found) == 1 else None


def _settings_of(module: Record) -> dict[str, Any]:
    """What a whole module says of itself beside its tensors."""
    parts = _parts(module, "_modules")
    dictionary, encoder = (parts.get(name) for name in ("dictionary", "encoder"))
    if not isinstance(dictionary, Record) or not isinstance(encoder, Record):
        raise FggError("it is no SAE of overcomplete: it has no encoder or no dictionary")
    settings = {"class": type(module).__name__, **{name: module.fields.get(name) for name in ARGUMENTS}}
    activation = _parts(encoder, "_modules").get("final_activation")
    if activation is not None and type(activation).__name__ != "ReLU":
        raise FggError(f"its encoder ends with {type(activation).__name__}; fgg reads ReLU")
    normalization = dictionary.fields.get("normalization")
    if isinstance(normalization, type):
        settings["normalization"] = normalization.__name__.removeprefix("normalize_")
    settings["delta"] = dictionary.fields.get("delta")
    if dictionary.fields.get("training") is False:
        settings["fused"] = dictionary.fields.get("_fused_dictionary")
    return settings


def _parts(module: Record, key: str) -> Mapping[str, Any]:
    parts = module.fields.get(key)
    return parts if isinstance(parts, Mapping) else {}


def _flat(module: Record, prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """The state dict of a whole module."""
    if depth > 8:
        raise FggError("its modules are nested too deeply")
    own = {**_parts(module, "_parameters"), **_parts(module, "_buffers")}
    found = {f"{prefix}{name}": value for name, value in own.items() if value is not None}
    for name, part in _parts(module, "_modules").items():
        if isinstance(part, Record):
            found |= _flat(part, f"{prefix}{name}.", depth + 1)
    return found


def _build(config: Mapping[str, Any], content: Any) -> Any:
    kind = config.get("class")
    if kind is None:
        raise FggError(f"it is a state dict, which does not say of which class; {REMEDY}")
    check_one_place(config)
    if kind in REFUSED:
        raise FggError(f"a {kind} cannot be read: {REFUSED[kind]}")
    if kind not in CLASSES:
        raise FggError(f"the class {kind!r} is not supported; fgg reads {', '.join(CLASSES)}")
    found = dense(content, (), tuple(content) if isinstance(content, Mapping) else ())
    decoder = _dictionary(found, config)
    features, width = decoder.shape
    tensors = {"W_dec": decoder, "b_dec": torch.zeros(width)}
    options: dict[str, Any] = {"subtract_b_dec": False}
    if kind == "MpSAE":
        if any(name.startswith("encoder.") for name in found):
            raise FggError("its encoder changes the activations before the pursuit; fgg reads the identity")
        return keep_place(
            build_sae(tensors, k=whole(config.get("k"), "k"), architecture="matching_pursuit", **options), config
        )
    tensors["W_enc"], tensors["b_enc"] = _encoder(found, decoder)
    if kind in TOP_K:
        options |= {"activation": "topk", "k": whole(config.get("top_k"), "top_k")}
        if options["k"] > features:
            raise FggError(f"top_k is {options['k']}, more than its {features} features")
    elif kind == "BatchTopKSAE":
        options["architecture"] = "jumprelu"
        tensors["threshold"] = reaching(per_feature(_running_threshold(config), "running_threshold", features))
    elif kind in JUMP:
        if "thresholds" not in found:
            raise FggError(f"a {kind} needs thresholds, and this one has none")
        options["architecture"] = "jumprelu"
        tensors["threshold"] = reaching(per_feature(found, "thresholds", features).exp())
    return keep_place(build_sae(tensors, **options), config)


def _running_threshold(config: Mapping[str, Any]) -> dict[str, Tensor]:
    value = config.get("running_threshold")
    if isinstance(value, bool) or not isinstance(value, int | float | Tensor):
        raise FggError(
            "a BatchTopKSAE needs its running_threshold, which is not in its state dict and is None before training; "
            f"{REMEDY}"
        )
    return {"running_threshold": value.detach().float() if isinstance(value, Tensor) else torch.tensor(float(value))}


def _dictionary(found: Mapping[str, Tensor], config: Mapping[str, Any]) -> Tensor:
    """The dictionary (F, D) as overcomplete computes it on the way to ``eval()``, or as it has stored it there."""
    if isinstance(config.get("fused"), Tensor):
        return matrix({"dictionary": config["fused"].detach().float()}, "dictionary")
    if "dictionary._weights" in found:
        weights = _normalised(matrix(found, "dictionary._weights"), config)
    elif all(f"dictionary.{name}" in found for name in ("W", "C", "Relax")):
        mixing, points, relax = (matrix(found, f"dictionary.{name}") for name in ("W", "C", "Relax"))
        delta = config.get("delta")
        if not isinstance(delta, int | float) or isinstance(delta, bool):
            raise FggError(f"an archetypal dictionary needs its delta; {REMEDY}")
        mixing = mixing.relu() / (mixing.relu().sum(-1, keepdim=True) + SMALL)
        weights = mixing @ points + relax * (delta / relax.norm(dim=-1, keepdim=True)).clamp(max=1)
        # Where a row of Relax is 0, overcomplete divides by 0 and clamps infinity to 1: 0 stays 0.
    else:
        raise FggError("it holds no dictionary of overcomplete (dictionary._weights, or dictionary.W, C and Relax)")
    return weights * found["dictionary.multiplier"].exp() if "dictionary.multiplier" in found else weights


def _normalised(weights: Tensor, config: Mapping[str, Any]) -> Tensor:
    stated = config.get("normalization")
    nested = config.get("dictionary_params")
    if stated is None and isinstance(nested, Mapping):
        stated = nested.get("normalization")
    order = 1 if str(stated).endswith("l1") else 2
    norms = weights.norm(p=order, dim=1, keepdim=True)
    if stated in ("l2", "l1"):
        return weights / (norms + SMALL)
    if stated in ("max_l2", "max_l1"):
        return weights / norms.amax()
    if stated == "identity":
        return weights
    if stated is not None:
        raise FggError(
            f"the dictionary's normalization {stated!r} is unknown; fgg reads l2, l1, max_l2, max_l1, identity"
        )
    if not torch.allclose(norms, torch.ones_like(norms), atol=1e-3):
        raise FggError(f"its dictionary is not of unit norm, and nothing says how it is normalised; {REMEDY}")
    return weights / (norms + SMALL)


def _encoder(found: Mapping[str, Tensor], decoder: Tensor) -> tuple[Tensor, Tensor]:
    """The encoder's matrix (D, F) and bias (F,), with batch norm folded in."""
    own = {name for name in found if name.startswith("encoder.")}
    tied = {name for name in own if name.startswith("encoder.tied_to.")}
    rest = own - tied
    zeros = torch.zeros(len(decoder))
    if rest <= {"encoder.bias"}:
        if not tied:
            raise FggError("it has no encoder with weights")
        return decoder.T, found.get("encoder.bias", zeros)
    if rest <= {"encoder.weight", "encoder.bias"}:
        return matrix(found, "encoder.weight").T, found.get("encoder.bias", zeros)
    norm = {name.removeprefix(BATCH_NORM): found[name] for name in rest if name.startswith(BATCH_NORM)}
    unknown = sorted(name for name in rest if not name.startswith((LINEAR, BATCH_NORM)))
    if unknown or (norm and "running_var" not in norm) or f"{LINEAR}weight" not in found:
        raise FggError(
            f"its encoder is not linear ({', '.join(unknown[:3]) or 'layer norm'}), and no SAE of sae-lens computes it"
        )
    weight, bias = matrix(found, f"{LINEAR}weight"), found.get(f"{LINEAR}bias", zeros)
    if norm:
        scale = (norm["running_var"] + BATCH_NORM_EPS).rsqrt() * norm.get("weight", torch.ones(len(bias)))
        weight, bias = weight * scale[:, None], (bias - norm["running_mean"]) * scale + norm.get("bias", zeros)
    return weight.T, bias
