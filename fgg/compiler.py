"""PyTorch's compiler, left out while one of our commands starts: no command compiles, and to import it takes a second.

torchvision imports ``torch._dynamo`` to ask it a question that only a region-of-interest pooling needs, timm to mark
five methods as not to be compiled. Until a command's modules are imported, two light modules stand in its place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any


class _StandIn(ModuleType):
    """A module in another one's place, which is imported after all if anything else is wanted of it."""

    def __getattr__(self, name: str) -> Any:
        # A package is asked for its path when a module of it is wanted.
        if name.startswith("__") and (self.__name__, name) != ("torch._dynamo", "__path__"):
            raise AttributeError(name)
        put_back()
        return getattr(import_module(self.__name__), name)


def _disable(function: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """Mark a function as not to be compiled: here, where none is, leave it as it is."""
    return _disable if function is None else function


def _is_compile_supported(device: Any) -> Any:
    """Whether functions can be compiled for a device; asked of the compiler itself."""
    put_back()
    return import_module("torch._dynamo.utils").is_compile_supported(device)


_NAMES: dict[str, dict[str, Callable]] = {
    "torch._dynamo": {"disable": _disable},
    "torch._dynamo.utils": {"is_compile_supported": _is_compile_supported},
}


def leave_out() -> None:
    """Let light modules stand in for the compiler, unless it is there already."""
    if "torch._dynamo" not in sys.modules:
        for name, contents in _NAMES.items():
            sys.modules[name] = _StandIn(name)
            vars(sys.modules[name]).update(contents)


def put_back() -> None:
    """Take the stand-ins away: what is imported from now on gets the compiler itself."""
    for name in _NAMES:
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]
