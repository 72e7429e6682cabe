"""Arguments of the public functions: whole numbers, and arithmetic that a caller's autocast does not change."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

from fgg.errors import FggError

P = ParamSpec("P")
R = TypeVar("R")
DEVICES = ("cpu", "cuda", "mps", "xpu")


def whole_number(value: Any, name: str, least: int | None = 1) -> int:
    """A whole number that is at least ``least``, if that is given; 4.0 is one, 4.5 and True are none.

    Raises:
        FggError: it is something else.
    """
    if isinstance(value, torch.Tensor) and value.ndim == 0 and not (value.is_complex() or value.is_meta):
        value = value.item()
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    whole = isinstance(value, Integral) or (isinstance(value, Real) and float(value).is_integer())
    if not whole or isinstance(value, bool) or (least is not None and value < least):
        raise FggError(f"{name}: {value!r} must be a whole number{'' if least is None else f', at least {least}'}")
    return int(value)


@contextlib.contextmanager
def without_autocast() -> Iterator[None]:
    """Switch torch.autocast off inside the block, on every device where it is on."""
    with contextlib.ExitStack() as stack:
        for device in DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which a caller's torch.autocast does not change."""

    @functools.wraps(function)
    def inside(*arguments: P.args, **options: P.kwargs) -> R:
        with without_autocast():
            return function(*arguments, **options)

    return inside
