"""The faithfulness metrics: their names, sources and directions. Does not import torch.

A metric is one function in a file of this folder, or ``module:function`` of another package, decorated with `metric`.
The names of its parameters determine what it is given:

- ``model``: the VisionTransformer; ``images``: float (B, C, H, W); ``relevance``: float (B, N); ``target``: int64 (B,);
- ``engine``: a `fgg.perturbation.engine.Perturber` of the images, which computes logits of perturbed images fast;
- ``curves``: a `fgg.faithfulness.order_curves.OrderCurves`: the probability while patches are filled in the map's
  order;
- ``responses``: the model's responses to random patch subsets, if ``needs`` names them;
- ``masks``: float (B, N), the share of each patch that the image's mask covers; NaN for an image without a mask;
- ``image_ids``, ``seed``: determine all random draws; ``protocol``; any other parameter is a setting and has a default.

A metric that is given an engine, curves or responses is computed with each fill that the configuration asks for.
It returns scores (B,), or a table {column: B values} in which the column of the scores has the metric's name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fgg import registry
from fgg.errors import FggError

NEEDS = {"responses": "logit drops to random patch subsets, computed once per dataset"}
PERTURBED = ("engine", "curves", "responses")
MASKS = "masks"
GIVEN = ("model", "images", "relevance", "target", *PERTURBED, MASKS, "image_ids", "seed", "protocol")
READS = ("values", "order")
LOCALISATION = "localisation"  # the key of `metrics` that stands for all metrics that are given masks
SPECIAL = ("fills", "measurable", LOCALISATION)  # keys of `metrics` that are not names of metrics
_STATED = (
    *("name", "title", "citation", "higher_is_better", "lowest", "highest", "quantity", "definition", "assumes"),
    *("short", "passes", "needs", "settings", "columns", "default", "place", "reads"),
)

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Metric:
    """A faithfulness metric.

    Attributes:
        name: its name in the configuration and the tables.
        title: its name in the figures.
        citation: the paper.
        higher_is_better: whether a higher score is better.
        lowest, highest: its range; None where it is unbounded.
        quantity: the label of an axis.
        definition: what it measures, in half a sentence.
        assumes: what must hold for a score to be meaningful.
        passes: forward passes per image and experiment, in words.
        needs: keys of `NEEDS`.
        settings: JSON schema of each key of its block in the configuration.
        columns: name -> meaning of the other columns that it returns.
        default: whether it is computed unless the configuration says null.
        place: its position among the metrics in tables and figures.
        short: a shorter title, for places with little room.
        reads: ``values`` if the score depends on the values of a map, ``order`` if only on their order.
        declaration: the function.
    """

    name: str
    title: str
    citation: str
    declaration: registry.Declaration
    higher_is_better: bool = True
    lowest: float | None = None
    highest: float | None = None
    quantity: str = ""
    definition: str = ""
    assumes: str = ""
    passes: str = ""
    needs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    default: bool = False
    place: int = 1000
    short: str = ""
    reads: str = "values"

    @property
    def sign(self) -> int:
        """+1 where higher is better, else -1."""
        return 1 if self.higher_is_better else -1

    @property
    def direction(self) -> str:
        """Which direction is better, as text."""
        return f"{'higher' if self.higher_is_better else 'lower'} is better"

    @property
    def perturbs(self) -> bool:
        """Whether it uses perturbed images and therefore depends on the fill."""
        return any(name in self.declaration.parameters for name in PERTURBED)

    @property
    def localises(self) -> bool:
        """Whether it compares a map with the mask of the image, and therefore needs a dataset with masks."""
        return MASKS in self.declaration.parameters

    @property
    def own(self) -> bool:
        """Whether it is a metric of this package; these share one table per experiment."""
        return self.declaration.module.startswith(f"{__package__}.")

    @property
    def reference(self) -> str:
        """Its name in the configuration: ``name``, or ``module:function`` for a function of another package."""
        return self.name if self.own else f"{self.declaration.module}:{self.declaration.function}"

    @property
    def error_column(self) -> str | None:
        """The column with the standard error of each score due to random draws; None if the metric draws nothing."""
        name = f"{self.name}_se"
        return name if name in self.columns else None


def metric(
    *,
    title: str,
    citation: str,
    higher_is_better: bool,
    name: str | None = None,
    lowest: float | None = None,
    highest: float | None = None,
    quantity: str = "",
    definition: str = "",
    assumes: str = "",
    passes: str = "",
    needs: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    default: bool = False,
    place: int = 1000,
    short: str = "",
    reads: str = "values",
) -> Callable[[Function], Function]:
    """Declare a function as a metric without changing it. See `Metric`; the name defaults to the function's."""
    return lambda function: function


@functools.cache
def metrics() -> registry.Catalogue[Metric]:
    """The metrics of this package by name, in the order of ``place``.

    Raises:
        ValueError: two of them share a name.
    """
    found = [_metric(own) for own in registry.declarations(Path(__file__).parent, str(__package__), "metric")]
    ordered = sorted(found, key=lambda entry: (entry.place, entry.name))
    table = registry.Catalogue((entry.name, entry) for entry in ordered)
    if len(table) != len(found):
        raise ValueError(f"two metrics share a name: {[entry.name for entry in found]}")
    return table


def find_metric(name: str) -> Metric:
    """A metric by its name, or a function of another package by ``module:function``.

    Raises:
        FggError: there is no such metric, or its declaration is invalid.
    """
    if registry.is_reference(name):
        return _metric(registry.declaration(name, "metric"))
    if name not in metrics():
        raise FggError(f"metric {name!r} is unknown; choose from {', '.join(metrics())}, or give module:function")
    return metrics()[name]


def chosen(names: Iterable[str]) -> dict[str, Metric]:
    """The metrics with these names or references, by name; this package's come first, in the order of ``place``.

    Raises:
        FggError: a metric is unknown, or two have the same name.
    """
    found = [find_metric(name) for name in names]
    found.sort(key=lambda entry: (not entry.own, entry.place if entry.own else 0))
    table = {entry.name: entry for entry in found}
    if len(table) != len(found):
        names = sorted(entry.name for entry in found)
        raise FggError(
            f"two metrics are named alike: {', '.join(names)}; give one of them another name with @metric(name=…)"
        )
    return table


def defaults() -> list[str]:
    """The names of the metrics that are computed unless the configuration says null."""
    return [name for name, entry in metrics().items() if entry.default]


def localising() -> list[str]:
    """The names of the metrics of this package that compare a map with a mask."""
    return [name for name, entry in metrics().items() if entry.localises]


def switched_on(settings: Mapping[str, Any]) -> list[str]:
    """The names in a configuration's ``metrics`` whose entry is not null."""
    return [name for name, own in settings.items() if own is not None and name not in SPECIAL]


def _metric(own: registry.Declaration) -> Metric:
    stated = dict(own.statement)
    where = f"{own.module}:{own.function}"
    if unknown := [key for key in stated if key not in _STATED]:
        raise FggError(f"{where}: @metric knows no {', '.join(unknown)}; it takes {', '.join(_STATED)}")
    if wrong := [need for need in stated.get("needs", ()) if need not in NEEDS]:
        raise FggError(f"{where}: needs {', '.join(wrong)} is not there to be had; choose from {', '.join(NEEDS)}")
    if stated.get("reads", "values") not in READS:
        raise FggError(f"{where}: reads {stated['reads']!r} is unknown; choose from {', '.join(READS)}")
    if strange := [name for name in own.required if name not in GIVEN]:
        raise FggError(
            f"{where}: a metric is given {', '.join(GIVEN)}, by these names; its parameter {', '.join(strange)} is "
            "none of them, and needs a default"
        )
    stated["needs"] = tuple(stated.get("needs", ()))
    name = stated.pop("name", None) or own.function
    title = stated.pop("title", None) or name.replace("_", " ")
    return Metric(name, title, stated.pop("citation", None) or own.about, own, **stated)
