"""The attribution methods: their names, sources, requirements and costs. Does not import torch.

A method is one function in a file of this folder, or ``module:function`` of another package, decorated with `method`.
The names of its parameters determine what it is given:

- ``model``: the VisionTransformer; ``images``: float (B, C, H, W); ``target``: int64 (B,), the class explained;
- ``captured``: a `fgg.models.capture.Captured` with what ``needs`` asks for;
- ``image_ids``, ``seed``: determine all random draws; any other parameter is an option of the method and has a default.

It returns relevance (B, N) per patch, or maps (B, H, W) or (B, C, H, W) per pixel, which are summed over the patches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fgg import registry
from fgg.errors import FggError

# What the shared pass of the model can capture: name -> what it is.
NEEDS = {
    "attention": "attention after softmax, averaged over heads, of every block",
    "attention_gradients": "mean over heads of max(attention x gradient, 0), of every block",
    "residuals": "the residual stream after the blocks in `layers`",
    "residual_gradients": "its gradient there",
    "input_gradient": "the gradient with respect to the images",
}
GIVEN = ("model", "images", "target", "captured", "image_ids", "seed")
_STATED = ("name", "title", "citation", "needs", "layers", "forward_passes", "backward_passes", "own_pass", "assumes")

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Method:
    """An attribution method.

    Attributes:
        name: its name in the configuration and the tables.
        title: its name in the figures.
        citation: the paper.
        needs: keys of `NEEDS`.
        layers: blocks whose residual stream is captured; negative ones count from the last.
        forward_passes, backward_passes: number per image; None if the method does not state it.
        own_pass: the method runs the model itself, and returns its relevance and what it captured.
        assumes: what must hold for the map to be meaningful.
        declaration: the function.
    """

    name: str
    title: str
    citation: str
    declaration: registry.Declaration
    needs: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    forward_passes: int | None = None
    backward_passes: int | None = None
    own_pass: bool = False
    assumes: str = ""

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the method's own options."""
        return tuple(name for name in self.declaration.parameters if name not in GIVEN)

    @property
    def reference(self) -> str:
        """Its name in the configuration: ``name``, or ``module:function`` for a function of another package."""
        own = self.declaration
        return self.name if own.module.startswith(f"{__package__}.") else f"{own.module}:{own.function}"


def method(
    *,
    title: str,
    citation: str,
    name: str | None = None,
    needs: Sequence[str] = (),
    layers: Sequence[int] = (),
    forward_passes: int | None = None,
    backward_passes: int | None = None,
    own_pass: bool = False,
    assumes: str = "",
) -> Callable[[Function], Function]:
    """Declare a function as an attribution method without changing it.

    See `Method` for the arguments; the name defaults to the function's.
    """
    return lambda function: function


@functools.cache
def methods() -> dict[str, Method]:
    """The methods of this package by name.

    Raises:
        ValueError: two of them share a name.
    """
    found = [_method(own) for own in registry.declarations(Path(__file__).parent, str(__package__), "method")]
    table = {entry.name: entry for entry in found}
    if len(table) != len(found):
        raise ValueError(f"two attribution methods share a name: {[entry.name for entry in found]}")
    return table


def find_method(name: str) -> Method:
    """A method by its name, or a function of another package by ``module:function``.

    Raises:
        FggError: there is no such method, or its declaration is invalid.
    """
    if registry.is_reference(name):
        return _method(registry.declaration(name, "method"))
    if name not in methods():
        raise FggError(f"method {name!r} is unknown; choose from {', '.join(methods())}, or give module:function")
    return methods()[name]


def _method(own: registry.Declaration) -> Method:
    stated = dict(own.statement)
    where = f"{own.module}:{own.function}"
    if unknown := [key for key in stated if key not in _STATED]:
        raise FggError(f"{where}: @method knows no {', '.join(unknown)}; it takes {', '.join(_STATED)}")
    stated = {key: tuple(value) if isinstance(value, list) else value for key, value in stated.items()}
    if wrong := [need for need in stated.get("needs", ()) if need not in NEEDS]:
        raise FggError(f"{where}: needs {', '.join(wrong)} cannot be captured; choose from {', '.join(NEEDS)}")
    if strange := [name for name in own.required if name not in GIVEN]:
        raise FggError(
            f"{where}: a method is given {', '.join(GIVEN)}, by these names; its parameter {', '.join(strange)} is "
            "none of them, and needs a default"
        )
    name = stated.pop("name", None) or own.function
    title = stated.pop("title", None) or name.replace("_", " ")
    return Method(name, title, stated.pop("citation", None) or own.about, own, **stated)
