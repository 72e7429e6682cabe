"""Reading Prisma's SAE checkpoints as sae-lens SAEs, without Prisma and without running a file's code.

Two forms exist. A folder: ``config.json`` and one ``.pt`` of tensors. One file, ``n_images_*.pt``: a pickle of
``{"cfg": an object of a vit_prisma class, "state_dict": tensors}``. A pickle names functions and calls them,
so the second is read by an unpickler that knows only what tensors need, and refuses every other name.
"""

from __future__ import annotations

import io
import json
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fgg.errors import FggError
from fgg.models.checkpoints import ZIP_START, damaged_part
from fgg.saes.formats.registry import sae_format
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
# What configs did not say before Prisma knew more than this.
ONCE = {"architecture": "standard", "activation_fn_kwargs": {}}
# What each key may say. The other keys of a config describe the training and are not read.
CHOICES = {
    "architecture": ("standard", "gated"),
    "activation_fn_str": ("relu", "topk", "tanh-relu"),
    "normalize_activations": ("none", "layer_norm", "constant_norm_rescale"),
}
# A gated SAE of Prisma has an encoder's bias that nothing reads.
UNREAD = {"standard": (), "gated": ("b_enc",)}
TORCHSCRIPT_MARK = b"constants.pkl"


@sae_format(name="Prisma checkpoint", files="config.json and a .pt file, that file, or n_images_*.pt alone", place=900)
def prisma(path: Path) -> Any | None:
    """The SAE of a Prisma checkpoint: a folder with config.json, or any file that no other form has claimed. Raises FggError."""
    return load_prisma(path) if path.is_file() or (path / CONFIG_FILE).is_file() else None


def load_prisma(path: str | Path) -> Any:
    """Load a Prisma SAE: a folder with config.json and one .pt file, that file, or the one-file form n_images_*.pt.

    Returns:
        A ``sae_lens.SAE`` in float32 on the CPU; ``cfg.metadata`` says where it reads (``hook_name``, ``layer``).

    Raises:
        FggError: no or several weights, a damaged file, a pickle that names anything but tensors and
            vit_prisma classes, or an SAE that fgg does not support.
    """
    path = Path(path)
    file = _weights_in(path) if path.is_dir() else path
    try:
        content = _read_weights(file)
        if not isinstance(content, Mapping):
            raise FggError("it holds no table of tensors")
        if path.is_dir() and (path / CONFIG_FILE).is_file():
            config: Any = _read_config(path / CONFIG_FILE)
        elif "cfg" in content:
            config = _fields(content["cfg"])
        elif (file.parent / CONFIG_FILE).is_file():
            config = _read_config(file.parent / CONFIG_FILE)
        else:
            raise FggError(f"no config is stored in it, and no {CONFIG_FILE} lies beside it")
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
        raise FggError(f"activation_fn_kwargs must be a table, not {kwargs!r}")
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
        raise FggError("its state_dict is no table of tensors")
    needed = TENSORS[architecture]
    missing = [name for name in needed if name not in tensors]
    unknown = sorted(str(name) for name in set(tensors) - {*needed, *UNREAD[architecture]})
    if missing or unknown:
        found = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(unknown)}"] * bool(unknown)
        raise FggError(f"a {architecture} SAE holds the tensors {', '.join(needed)}; this one {' and '.join(found)}")
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or not tensor.is_floating_point():
            raise FggError(f"{name} is no dense tensor of floating-point numbers")
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
        raise FggError(f"sae.weights: {folder} holds no .pt file of weights")
    names = ", ".join(file.name for file in found)
    raise FggError(f"sae.weights: {folder} holds several .pt files ({names}); name the right one {WEIGHTS_FILE}")


def _read_config(file: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested without end
        raise FggError(f"{file.name} is not valid JSON ({error})") from None
    if not isinstance(config, dict):
        raise FggError(f"{file.name} must hold a table of settings")
    return config


def _read_weights(file: Path) -> Any:
    """What a .pt file holds: read by torch as plain tensors, or else by the restricted unpickler."""
    data = file.read_bytes()
    if not data:
        raise FggError("the file is empty")
    # Other forms that torch.load accepts (tar, bare pickles, TorchScript programs) take other ways through it.
    # The bytes are searched, not the zip's list of names: a forged zip can show two readers two lists.
    if not data.startswith(ZIP_START) or TORCHSCRIPT_MARK in data:
        raise FggError("this is not a file of tensors that torch.save wrote, or it is damaged")
    try:
        broken = damaged_part(io.BytesIO(data))
        if broken:
            raise FggError(f"the file is damaged (at {broken}); fetch it again")
        try:
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False, pickle_module=_PICKLE)
    except FggError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged file can fail at any step, with any error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FggError(f"the file is damaged or incomplete ({reason})") from None


class _Record:
    """Stands for any object of a vit_prisma class: keeps what the pickle gives, and does nothing with it.

    A pickle can act on an object only by calling its class (`__new__`), by BUILD (`__setstate__`), or by the
    methods of lists, sets and tables (`append`, `extend`, `add`, `__setitem__`). Here the first two store their
    arguments in two slots and the others do not exist. With slots there is no `__dict__` in which a pickle could
    plant a method, and as `__setstate__` is defined, BUILD sets no attribute, neither of an object nor of the class.
    """

    __slots__ = ("args", "fields")
    args: tuple[Any, ...]
    fields: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> _Record:
        record = object.__new__(cls)
        record.args, record.fields = args, dict(kwargs)
        return record

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):  # (fields, slots), or fields
            self.fields.update(part or {})


class _Rebuild:
    """Makes a tensor of a storage; an object without attributes, so that BUILD cannot alter torch's function."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
        if not isinstance(storage, torch.storage.TypedStorage):
            raise pickle.UnpicklingError("a tensor without a storage")
        return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())


# Storages are not here: torch.load turns any name with "Storage" in it into a label for a dtype, before it asks.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(),
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    **{("torch", name): kind for name, kind in vars(torch).items() if isinstance(kind, torch.dtype)},
}


class _Unpickler(pickle.Unpickler):
    """Knows what tensors need, sees a record in all of vit_prisma (which it never imports), refuses the rest."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "vit_prisma" or module.startswith("vit_prisma."):
            return _Record
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise FggError(f"its pickle asks for {module}.{name}, which no SAE needs; refused, do not trust this file")


_PICKLE = SimpleNamespace(Unpickler=_Unpickler, __name__=__name__)  # what torch.load takes in place of `pickle`


def _fields(config: Any) -> Mapping[str, Any]:
    """A pickled config's fields; an enum's member, pickled as a call of its class, becomes its value."""
    fields = config.fields if isinstance(config, _Record) else config
    if not isinstance(fields, Mapping):
        raise FggError("its cfg is no config object")
    return {
        key: value.args[0] if isinstance(value, _Record) and len(value.args) == 1 and not value.fields else value
        for key, value in fields.items()
    }
