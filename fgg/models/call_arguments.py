"""Arguments of the public functions: tensors, classes, names and seeds in the forms that people bring."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fgg.errors import FggError
from fgg.models.arguments import whole_number


def check_numbers(tensor: Tensor, name: str) -> None:
    """Raise FggError for a tensor without numbers (``meta``), or whose numbers are not in one dense block."""
    if tensor.is_nested:
        raise FggError(f"{name} is a nested tensor, whose parts differ in size; give a dense one, torch.stack(…)")
    if tensor.layout != torch.strided:
        raise FggError(f"{name} is {tensor.layout}; make it dense with .to_dense()")
    if tensor.is_meta:
        raise FggError(f"{name} is on the device meta, which holds no numbers; load the values first")


def plain(tensor: Tensor) -> Tensor:
    """The tensor without its history and its class, in the usual order in memory, so that equal values give equal results."""
    found = tensor.detach()
    if type(found) is not Tensor:
        found = found.as_subclass(Tensor)
    return found.resolve_conj().resolve_neg().contiguous()


def as_tensor(values: Any, name: str, form: str, content: str = "a number for each patch, (images, patches)") -> Tensor:
    """Numbers as a plain dense tensor: from a tensor, an array of any strides and byte order, or nested sequences.

    Args:
        form, content: what is expected, and what it must hold, for the messages.

    Raises:
        FggError: other types, rows of different length, complex numbers, masked values, or a tensor without numbers.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise FggError(f"{name} is a masked array; put NaN where values are masked: .filled(np.nan)")
    if not isinstance(values, Tensor | np.ndarray | Sequence) or isinstance(values, str | bytes):
        raise FggError(f"{name} must be {form}, not a {type(values).__name__}")
    try:
        found = values if isinstance(values, Tensor) else _from_python(values)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise FggError(f"{name} must hold {content}; its rows differ, or hold something else") from None
    if not found.is_nested and found.layout != torch.strided:
        found = found.to_dense()
    check_numbers(found, name)
    if found.is_complex():
        raise FggError(f"{name} is {found.dtype}, and complex numbers have no order; take .real or .abs()")
    return plain(found)


def _from_python(values: Any) -> Tensor:
    """A tensor of an array or of nested sequences of numbers, also exact ones, such as fractions."""
    if isinstance(values, Sequence) and values and all(isinstance(value, Tensor) for value in values):
        return torch.stack(list(values))
    array = np.asarray(values)
    if array.dtype.kind not in "biufcO":
        raise TypeError
    if array.dtype.kind == "O" or array.dtype.itemsize > 16 or array.dtype == np.longdouble:
        array = array.astype(np.float64)
    if not isinstance(values, np.ndarray) and array.dtype.kind == "f":
        array = array.astype(torch.empty(0).numpy().dtype)  # as torch does with Python's numbers
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def class_numbers(target: Any, device: torch.device) -> Tensor:
    """Classes as int64, one or several: a whole number of any type, or an array of integers.

    Raises:
        FggError: names of classes, fractions, arrays of floats (most often logits or probabilities), booleans, or no numbers.
    """
    form = "one class per image, int64 (images,), or one number for all"
    numbers = isinstance(target, Tensor | np.ndarray | Sequence) and not isinstance(target, str | bytes)
    if not numbers:
        try:
            target = torch.tensor(whole_number(target, "target", least=None))
        except (FggError, RuntimeError, ValueError, OverflowError):
            raise FggError(f"target: {target!r} must be {form}") from None
    found = as_tensor(target, "target", form, form)
    if found.dtype == torch.bool or found.is_floating_point():
        raise FggError(f"target must hold {form}, not {found.dtype}")
    return found.long().to(device)


def image_names(image_ids: Any, count: int) -> list[str]:
    """Names of a number of images, as text.

    Raises:
        FggError: it is no collection of names, one is None, or they are too many or too few.
    """
    names = list_of_names(image_ids)
    if len(names) != count:
        raise FggError(f"{len(names)} image_ids for {count} images")
    return names


def names_or_numbers(image_ids: Any, count: int) -> list[str]:
    """Names of a number of images; their numbers from 0 for None. Images that have names, such as those of a run, will do.

    Raises:
        FggError: as `image_names`.
    """
    if image_ids is None:
        return [str(number) for number in range(count)]
    return image_names(getattr(image_ids, "image_ids", image_ids), count)


def list_of_names(image_ids: Any) -> list[str]:
    """A list of names, as text. Raises FggError for what is no collection of names."""
    if not isinstance(image_ids, Iterable):
        raise FggError(f"image_ids: {image_ids!r} must be a list with a name per image")
    names = list(_plain_names(image_ids))
    if any(name is None for name in names):
        raise FggError("image_ids: None is no name; give each image its own")
    return [str(name) for name in names]


def _plain_names(names: Iterable) -> Iterator[Any]:
    for name in names:
        yield name.item() if isinstance(name, Tensor | np.generic) else name


def seed_number(seed: Any) -> int:
    """A seed. Raises FggError for anything but a whole number."""
    return whole_number(seed, "seed", least=None)
