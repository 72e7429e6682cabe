"""The attribution methods: their names, sources, requirements and costs. Does not import torch.

A method is one function in a file of this folder, or ``module:function`` of another package, decorated with `method`.
The names of its parameters determine what it is given:

- ``model``: the VisionTransformer; ``images``: float (B, C, H, W); ``target``: int64 (B,), the class explained;
- ``captured``: a `fgg.models.capture.Captured` with what ``needs`` asks for;
- ``gates``: layer -> gates (B, N) that multiply the relevance of the patches at that layer; empty without a gate. A
  method with this parameter can be gated. If it has an option ``layers``, that option is then the gated layers;
- ``masks``, ``decoys``: (B, N), the share of each patch that the dataset's mask or decoy covers;
- ``image_ids``, ``seed``: determine all random draws; any other parameter is an option of the method and has a default.

It returns relevance (B, N) per patch, or maps (B, H, W) or (B, C, H, W) per pixel, which are summed over the patches;
or a pair of these and a table {column: B values} for the table of attributions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
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
    "last_attention": "attention of every head of the last block, and its gradient",
    "input_gradient": "the gradient with respect to the images",
}
MASKS = ("masks", "decoys")
GIVEN = ("model", "images", "target", "captured", "gates", *MASKS, "image_ids", "seed")
# What an experiment's map is: a method, a bound that no method can be expected to pass, or a map of known content.
ROLES = ("method", "ceiling", "floor", "reference")
PATCHES = "patches"  # what passes can be counted by, beside the names of options
_STATED = (
    *("name", "title", "citation", "needs", "layers", "forward_passes", "backward_passes", "repeats", "own_pass"),
    *("role", "assumes"),
)

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
        repeats: an option that is a number, or ``patches``: so many forward passes come on top, and as many times
            the backward passes are made.
        role: one of `ROLES`.
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
    repeats: str = ""
    role: str = "method"
    own_pass: bool = False
    assumes: str = ""

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the method's own options."""
        return tuple(name for name in self.declaration.parameters if name not in GIVEN)

    @property
    def gateable(self) -> bool:
        """Whether a gate can multiply its relevance."""
        return "gates" in self.declaration.parameters

    def passes(self, patches: int, options: Mapping[str, Any] | None = None) -> tuple[int | None, int | None]:
        """The forward and backward passes per image with these options; None where the method does not state them.

        The first forward pass finds the class. All others are made once for each of the method's ``layers``, if it has
        any, and begin at the tokens there; they count as whole ones, and one pass more finds these tokens. A method with
        a pass of its own serves all layers with it.
        """
        if self.forward_passes is None or self.backward_passes is None:
            return self.forward_passes, self.backward_passes
        given = {**self.declaration.defaults, **(options or {})}
        layers = 0 if self.own_pass else len(given.get("layers") or ())
        places = max(1, layers)
        repeats = patches if self.repeats == PATCHES else int(given[self.repeats]) if self.repeats else 0
        forward = 1 + bool(layers) + places * (self.forward_passes - 1 + repeats)
        return forward, self.backward_passes * places * (repeats or 1)

    @property
    def cost(self) -> str:
        """The passes per image in words."""
        if self.forward_passes is None or self.backward_passes is None:
            return "not stated"
        by, default = self.repeats, self.declaration.defaults.get(self.repeats)
        forward = f"{self.forward_passes} + {by}" if by else str(self.forward_passes)
        backward = (by if self.backward_passes == 1 else f"{self.backward_passes} x {by}") if by else ""
        backward = backward if by and self.backward_passes else str(self.backward_passes)
        known = f" ({by}: {default})" if default is not None else ""
        return f"{forward} forward and {backward} backward passes per image{known}"

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
    repeats: str = "",
    role: str = "method",
    own_pass: bool = False,
    assumes: str = "",
) -> Callable[[Function], Function]:
    """Declare a function as an attribution method without changing it.

    See `Method` for the arguments; the name defaults to the function's.
    """
    return lambda function: function


@functools.cache
def methods() -> registry.Catalogue[Method]:
    """The methods of this package by name.

    Raises:
        ValueError: two of them share a name.
    """
    found = [_method(own) for own in registry.declarations(Path(__file__).parent, str(__package__), "method")]
    table = registry.Catalogue((entry.name, entry) for entry in found)
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
    if stated.get("role", "method") not in ROLES:
        raise FggError(f"{where}: role {stated['role']!r} is unknown; choose from {', '.join(ROLES)}")
    if (by := stated.get("repeats")) and by != PATCHES and not isinstance(own.defaults.get(by), int):
        raise FggError(f"{where}: repeats {by!r} is neither {PATCHES!r} nor an option whose default is a whole number")
    name = stated.pop("name", None) or own.function
    title = stated.pop("title", None) or name.replace("_", " ")
    return Method(name, title, stated.pop("citation", None) or own.about, own, **stated)
