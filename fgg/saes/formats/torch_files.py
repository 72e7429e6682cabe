"""What the readers of SAE files share: reading files of torch without running code from them, settings, and checks.

A pickle can call the functions that it names. A file that ``torch.load(weights_only=True)`` refuses is therefore read by
an unpickler that accepts only what tensors need, replaces the classes of named packages by records, which do nothing, and
refuses all other names.
"""

from __future__ import annotations

import contextlib
import functools
import io
import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fgg.errors import FggError
from fgg.models.bounded_pickles import check_tensors, unfilled
from fgg.models.checkpoint_files import UNREADABLE, ZIP_START, damaged_part, first_line
from fgg.saes.formats.weight_bytes import NO_TENSORS, read_bytes
from fgg.saes.normalisation import UNFOLDED, fold_centred

TORCHSCRIPT_MARK = b"constants.pkl"
STATISTICS = "norm_stats.pt"
MODULES = "torch.nn"  # the package of whole pickled modules


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Errors while a file is read become one FggError that names the setting and the file."""
    try:
        yield
    except FggError as error:
        raise FggError(f"sae.weights: {path}: {error}") from None
    except (*UNREADABLE, OverflowError) as error:
        raise FggError(f"sae.weights: {path}: the file is damaged or incomplete ({first_line(error)})") from None


def read_weights(file: Path, records: Sequence[str] = ()) -> Any:
    """The content of a file of weights: safetensors if its name ends so, else what torch.save wrote.

    Args:
        file: the file.
        records: see `read_torch`.

    Raises:
        FggError: it is damaged, or its pickle names what it must not.
    """
    return load_file(file) if file.suffix == ".safetensors" else read_torch(read_bytes(file), records)


def read_torch(data: bytes, records: Sequence[str] = ()) -> Any:
    """The content of a file that torch.save wrote, as tensors and plain values.

    Args:
        data: the bytes of the file.
        records: packages whose objects are read as `Record`, of a class with the same name; their code is neither imported
            nor run. With ``torch.nn`` among them, whole modules are read.

    Raises:
        FggError: it is damaged or another kind of file, or its pickle names anything else.
    """
    if not data:
        raise FggError("the file is empty")
    # Other formats that torch.load accepts (tar, bare pickles, TorchScript programs) take other code paths in it.
    # Search the bytes, not the zip's list of names: a forged zip can show different lists to different readers.
    if not data.startswith(ZIP_START) or TORCHSCRIPT_MARK in data:
        raise FggError(NO_TENSORS)
    try:
        broken = damaged_part(io.BytesIO(data))
        if broken:
            raise FggError(f"the file is damaged (at {broken}); fetch it again")
        with unfilled():
            content = _loaded(data, records)
        check_tensors(content, len(data))
        return content
    except FggError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged file can fail at any step, with any error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FggError(f"the file is damaged or incomplete ({reason})") from None


class Record:
    """Stand-in for any object of a named package: stores what the pickle passes and does nothing with it.

    A pickle can act on an object only by calling its class (`__new__`), by BUILD (`__setstate__`), or by the
    methods of lists, sets and dictionaries (`append`, `extend`, `add`, `__setitem__`). Here the first two store
    their arguments in two slots, and the others do not exist. With slots there is no `__dict__` in which a pickle could
    plant a method. Since `__setstate__` is defined, BUILD sets no attribute, neither on an object nor on the class.
    """

    __slots__ = ("args", "fields")
    args: tuple[Any, ...]
    fields: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Record:
        record = object.__new__(cls)
        record.args, record.fields = args, dict(kwargs)
        return record

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):  # (fields, slots), or fields
            self.fields.update(part or {})


@functools.lru_cache
def _record_class(name: str) -> type[Record]:
    """The class of the records of a class of this name."""
    return type(name, (Record,), {"__slots__": ()})


class _Rebuild:
    """Makes a tensor from a storage; an object without attributes, so that BUILD cannot alter torch's function."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
        if not isinstance(storage, torch.storage.TypedStorage):
            raise pickle.UnpicklingError("a tensor without a storage")
        return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())


class _Parameter:
    """What a parameter holds; an object without attributes, as above."""

    __slots__ = ()

    def __call__(self, data: Any, *_: Any) -> Tensor:
        if not isinstance(data, Tensor):
            raise pickle.UnpicklingError("a parameter without a tensor")
        return data


# Storages are not listed: torch.load turns any name that contains "Storage" into a dtype label before it asks here.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(),
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    **{("torch", name): kind for name, kind in vars(torch).items() if isinstance(kind, torch.dtype)},
}


# What modules need beside.
_IN_MODULES: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_parameter"): _Parameter(),
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
}


@functools.cache
def _loaded(data: bytes, records: Sequence[str]) -> Any:
    """What torch makes of the bytes; a pickle that names records is read with stand-ins for them."""
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        restricted = _restricted(tuple(records))
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False, pickle_module=restricted)


def _restricted(records: tuple[str, ...]) -> Any:
    """What torch.load takes in place of ``pickle``, for files with objects of these packages."""
    allowed = _ALLOWED | (_IN_MODULES if MODULES in records else {})

    class Unpickler(pickle.Unpickler):
        """Accepts what tensors need, replaces the packages' classes without importing them, refuses the rest."""

        def find_class(self, module: str, name: str) -> Any:
            if any(module == own or module.startswith(f"{own}.") for own in records):
                return _record_class(name)
            if (module, name) in allowed:
                return allowed[module, name]
            raise FggError(
                f"its pickle asks for {module}.{name}, which no SAE needs; it was refused, do not trust this file"
            )

    return SimpleNamespace(Unpickler=Unpickler, __name__=__name__)


def dense(tensors: Any, needed: Sequence[str], other: Sequence[str] = ()) -> dict[str, Tensor]:
    """The needed tensors of a state dict, and those of ``other`` that it holds, in float32.

    Raises:
        FggError: a needed one is missing, it holds anything else, or one is no dense tensor of floating-point numbers.
    """
    if not isinstance(tensors, Mapping):
        raise FggError("it does not hold a dictionary of tensors")
    missing = [name for name in needed if name not in tensors]
    unknown = sorted(str(name) for name in set(tensors) - {*needed, *other})
    if missing or unknown:
        found = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(unknown)}"] * bool(unknown)
        raise FggError(f"such an SAE holds the tensors {', '.join(needed)}; this one {' and '.join(found)}")
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_complex():
            raise FggError(f"{name} is not a dense tensor of real numbers")
    return {str(name): tensor.detach().float() for name, tensor in tensors.items()}


def matrix(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """A tensor of two dimensions. Raises FggError: it has others."""
    if tensors[name].ndim != 2:
        raise FggError(f"{name} is {tuple(tensors[name].shape)}, expected two dimensions")
    return tensors[name]


def per_feature(tensors: Mapping[str, Tensor], name: str, features: int) -> Tensor:
    """A threshold, one for all features or one for each, as (F,). Raises FggError: it has another shape."""
    value = tensors[name]
    if value.numel() != 1 and tuple(value.shape) != (features,):
        raise FggError(f"{name} is {tuple(value.shape)}, expected one number or ({features},)")
    return value.expand(features).clone() if value.ndim == 0 else value.reshape(-1).expand(features).clone()


def whole(value: Any, what: str) -> int:
    """A whole number of at least 1. Raises FggError: it is not one."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise FggError(f"{what} must be a whole number of at least 1, not {value!r}")
    return value


def check_size(config: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Raise FggError if a configuration states another size than the weights have."""
    for name, size in sizes.items():
        if config.get(name) not in (None, size):
            raise FggError(f"{name} is {config[name]!r} in the configuration, but the weights have {size}")


def centre(sae: Any, kind: str | None, folder: Path) -> None:
    """Fold in the mean and the scale that a file beside the weights holds; else note that they are missing.

    Args:
        sae: the SAE, which changes.
        kind: which of `fgg.saes.normalisation` the SAE was trained with; None for none.
        folder: where ``norm_stats.pt`` may be, with ``mean`` (D,) and ``std``, as ViSAEBench writes it.

    Raises:
        FggError: the file is damaged, or does not fit the SAE.
    """
    if kind is None:
        return
    setattr(sae.cfg.metadata, UNFOLDED, kind)
    if not (file := folder / STATISTICS).is_file():
        return
    try:
        found = read_weights(file)
        if not isinstance(found, Mapping) or not isinstance(found.get("mean"), Tensor) or "std" not in found:
            raise FggError("it must hold a dictionary with the tensor mean and the number std")
        fold_centred(sae, found["mean"].float().flatten(), float(found["std"]))
    except (FggError, TypeError, ValueError) as error:
        raise FggError(f"{file.name} beside it: {error}") from None


def reaching(threshold: Tensor) -> Tensor:
    """The threshold above which lies what is at least as large as this one: codes that equal it stay."""
    return torch.nextafter(threshold, torch.full_like(threshold, -torch.inf))


def check_one_place(*configs: Any) -> None:
    """Raise FggError if a configuration says that the SAE maps one place of a model to another."""
    for config in configs:
        if isinstance(config, Mapping):
            kinds = [
                str(config.get(key, "")).lower() for key in ("class", "cls", "dict_class", "trainer_class", "type")
            ]
            if config.get("is_transcoder") or any("transcoder" in kind or "crosscoder" in kind for kind in kinds):
                raise FggError(
                    "this is a transcoder or crosscoder, which maps one place of a model to another; give an SAE, which "
                    "reconstructs the place that it reads"
                )


def keep_place(sae: Any, *configs: Any) -> Any:
    """Put the hook and the layer that configurations name into the SAE's metadata; the first that names one counts."""
    known = [config for config in configs if isinstance(config, Mapping)]
    hooks = (config.get(key) for config in known for key in ("hook_name", "hook_point"))
    layers = (config.get(key) for config in known for key in ("layer", "hook_layer", "hook_point_layer"))
    hook = next((value for value in hooks if isinstance(value, str) and value), None)
    layer = next((value for value in layers if isinstance(value, int) and not isinstance(value, bool)), None)
    if hook is not None:
        sae.cfg.metadata.hook_name = hook
    if layer is not None:
        sae.cfg.metadata.layer = layer
    return sae
