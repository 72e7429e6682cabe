"""Read Prisma's SAE checkpoints as sae-lens SAEs, without Prisma and without running code from the files.

There are two formats. A folder: ``config.json`` and one ``.pt`` file of tensors. One file, ``n_images_*.pt``: a pickle
of ``{"cfg": an object of a vit_prisma class, "state_dict": tensors}``, which `fgg.saes.formats.torch_files` reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fgg.data.settings_files import read_settings
from fgg.errors import FggError
from fgg.saes.formats.registry import sae_format
from fgg.saes.formats.torch_files import Record as _Record
from fgg.saes.formats.torch_files import read_torch
from fgg.saes.formats.weight_bytes import read_bytes
from fgg.saes.sae import TENSORS, build_sae

CONFIG_FILE, WEIGHTS_FILE = "config.json", "weights.pt"
KEYS = (
    "architecture",
    "activation_fn_str",
    "activation_fn_kwargs",
    "normalize_activations",
    "d_in",
    "hook_point_layer",
)
# Defaults for configs from versions of Prisma that did not have these keys.
ONCE = {"architecture": "standard", "activation_fn_kwargs": {}}
# Allowed values of each key. The other keys of a config describe the training and are not read.
CHOICES = {
    "architecture": ("standard", "gated"),
    "activation_fn_str": ("relu", "topk", "tanh-relu"),
    "normalize_activations": ("none", "layer_norm", "constant_norm_rescale"),
}
# Prisma's gated SAEs have an encoder bias that is never used.
UNREAD = {"standard": (), "gated": ("b_enc",)}
PACKAGE = "vit_prisma"


@sae_format(
    name="Prisma checkpoint", files="config.json and a .pt file, the .pt file itself, or n_images_*.pt alone", place=900
)
def prisma(path: Path) -> Any | None:
    """Load a Prisma checkpoint: a folder with config.json, or any file that no other format has recognised. Raises FggError like `load_prisma`."""
    return load_prisma(path) if path.is_file() or (path / CONFIG_FILE).is_file() else None


def load_prisma(path: str | Path) -> Any:
    """Load a Prisma SAE: a folder with config.json and one .pt file, the .pt file itself, or one file n_images_*.pt.

    Returns:
        A ``sae_lens.SAE`` in float32 on the CPU; ``cfg.metadata`` says what it reads (``hook_name``, ``layer``).

    Raises:
        FggError: there are no weights or several, a file is damaged, a pickle names anything but tensors and
            vit_prisma classes, or fgg does not support the SAE.
    """
    path = Path(path)
    file = _weights_in(path) if path.is_dir() else path
    try:
        content = read_torch(read_bytes(file), (PACKAGE,))
        if not isinstance(content, Mapping):
            raise FggError("it does not hold a dictionary of tensors")
        if path.is_dir() and (path / CONFIG_FILE).is_file():
            config: Any = read_settings(path / CONFIG_FILE)
        elif "cfg" in content:
            config = _fields(content["cfg"])
        elif (file.parent / CONFIG_FILE).is_file():
            config = read_settings(file.parent / CONFIG_FILE)
        else:
            raise FggError(f"it holds no config, and there is no {CONFIG_FILE} beside it")
        return _build(config, content.get("state_dict", content))
    except FggError as error:
        raise FggError(f"sae.weights: {file}: {error}") from None


def _build(config: Mapping[str, Any], tensors: Any) -> Any:
    config = ONCE | dict(config)
    _check_config(config)
    architecture = config["architecture"]
    _check_tensors(tensors, architecture)
    kwargs = config["activation_fn_kwargs"] or {}
    if config["d_in"] != tensors["W_enc"].shape[0]:
        raise FggError(f"d_in is {config['d_in']}, but W_enc is {tuple(tensors['W_enc'].shape)}")
    features = tensors["W_enc"].shape[1]
    if kwargs and kwargs["k"] > features:
        raise FggError(f"activation_fn_kwargs: k is {kwargs['k']}, but the SAE has {features} features")
    sae = build_sae(
        dict(tensors), config["activation_fn_str"], config["normalize_activations"], kwargs.get("k"), architecture
    )
    sae.cfg.metadata.layer = config["hook_point_layer"]
    sae.cfg.metadata.hook_name = f"blocks.{config['hook_point_layer']}.{config.get('layer_subtype', 'hook_resid_post')}"
    return sae


def _check_config(config: Mapping[str, Any]) -> None:
    missing = [key for key in KEYS if key not in config]
    if missing:
        raise FggError(f"the config lacks {', '.join(missing)}")
    for key, choices in CHOICES.items():
        if config[key] not in choices:
            raise FggError(f"{key} {config[key]!r} is not supported; fgg reads {', '.join(choices)}")
    for key, least in (("d_in", 1), ("hook_point_layer", 0)):
        if not _is_int(config[key], least):
            raise FggError(f"{key} must be a whole number of at least {least}, not {config[key]!r}")
    if config.get("is_transcoder"):
        raise FggError("is_transcoder is true; fgg reads autoencoders, not transcoders")
    kwargs = {} if config["activation_fn_kwargs"] is None else config["activation_fn_kwargs"]
    if not isinstance(kwargs, Mapping):
        raise FggError(f"activation_fn_kwargs must be a dictionary, not {kwargs!r}")
    known = {"k"} if config["activation_fn_str"] == "topk" else set()
    unknown = sorted(str(key) for key in set(kwargs) - known)
    if config["architecture"] == "gated" and config["activation_fn_str"] != "relu":
        raise FggError(
            f"activation_fn_str {config['activation_fn_str']!r} is not supported in a gated SAE; fgg reads relu"
        )
    if unknown:
        raise FggError(f"activation_fn_kwargs has unknown keys for {config['activation_fn_str']}: {', '.join(unknown)}")
    if known and not _is_int(kwargs.get("k"), 1):
        raise FggError(f"activation_fn_kwargs: topk needs a whole number k of at least 1, not {kwargs.get('k')!r}")


def _check_tensors(tensors: Any, architecture: str) -> None:
    if not isinstance(tensors, Mapping):
        raise FggError("its state_dict is not a dictionary of tensors")
    needed = TENSORS[architecture]
    missing = [name for name in needed if name not in tensors]
    unknown = sorted(str(name) for name in set(tensors) - {*needed, *UNREAD[architecture]})
    if missing or unknown:
        found = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(unknown)}"] * bool(unknown)
        raise FggError(f"a {architecture} SAE holds the tensors {', '.join(needed)}; this one {' and '.join(found)}")
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or not tensor.is_floating_point():
            raise FggError(f"{name} is not a dense tensor of floating-point numbers")
    if tensors["W_enc"].ndim != 2:
        raise FggError(f"W_enc is {tuple(tensors['W_enc'].shape)}, expected two dimensions")


def _is_int(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _weights_in(folder: Path) -> Path:
    """The folder's weights: weights.pt, or else its only .pt file."""
    found = sorted(file for file in folder.glob("*.pt") if file.is_file())
    named = [file for file in found if file.name == WEIGHTS_FILE] or found
    if len(named) == 1:
        return named[0]
    if not found:
        raise FggError(f"sae.weights: {folder} holds no .pt file with weights")
    names = ", ".join(file.name for file in found)
    raise FggError(f"sae.weights: {folder} holds several .pt files ({names}); rename the right one to {WEIGHTS_FILE}")


def _fields(config: Any) -> Mapping[str, Any]:
    """The fields of a pickled config; an enum member, which is pickled as a call of its class, becomes its value."""
    fields = config.fields if isinstance(config, _Record) else config
    if not isinstance(fields, Mapping):
        raise FggError("its cfg is not a config object")
    return {
        key: value.args[0] if isinstance(value, _Record) and len(value.args) == 1 and not value.fields else value
        for key, value in fields.items()
    }
