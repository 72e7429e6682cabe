"""Explain an image: the prediction, the maps, what the gate did, and what happens without the most relevant patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fgg.attribution.attribute import attribute
from fgg.attribution.gate import Gate
from fgg.attribution.registry import find_method
from fgg.catalogue import CONSTRUCTIONS
from fgg.errors import FggError
from fgg.explain.explained_model import Picture, Subject
from fgg.explain.gate_effect import Feature, GateEffect, Terms, feature_terms, gate_effect, shares, strongest
from fgg.explain.options import GATED, PLAIN
from fgg.explain.removal import Removal, patches_of, removals

TOP = 10.0  # per cent of the patches that are compared if none are removed


@dataclass(frozen=True)
class Settings:
    """What is computed for every image.

    Attributes:
        methods: names of maps: ``gated``, one of ``fgg.methods()``, or ``module:function``.
        gate: the gate of the map ``gated``, if that is among them.
        saes: layer -> SAE, as for `fgg.attribute`.
        target: class to explain; None takes the predicted one.
        features: number of strongest features to name.
        remove: per cent of the patches that are removed; 0 removes none.
        fills: what replaces them.
        draws: number of random subsets of patches that are removed for comparison.
        seed: seed of the random draws.
        keep_terms: keep all features of every patch.
    """

    methods: tuple[str, ...] = (PLAIN, GATED)
    gate: Gate | None = None
    saes: Mapping[int, Any] = field(default_factory=dict)
    target: int | None = None
    features: int = 6
    remove: float = 10.0
    fills: tuple[str, ...] = ("mean", "removal")
    draws: int = 20
    seed: int = 0
    keep_terms: bool = False

    @property
    def has_features(self) -> bool:
        """Whether the gate is made of SAE features."""
        return self.gate is not None and self.gate.needs_sae

    @property
    def titles(self) -> dict[str, str]:
        """Name of a map -> its title in the picture."""
        return {name: title(name) for name in self.methods}

    @property
    def headline(self) -> str:
        """The title of the whole picture."""
        names = ", ".join(own for name, own in self.titles.items() if name != GATED)
        if self.gate is None:
            return names
        layers = ", ".join(map(str, self.gate.layers))
        made = CONSTRUCTIONS[self.gate.construction].title.replace(" x ", " × ")
        return (
            f"{names}, and {title(PLAIN)} gated by {made} at layer{'s' if len(self.gate.layers) > 1 else ''} {layers}"
        )


@dataclass
class Explanation:
    """An explained image. N patches, K classes.

    Attributes:
        probabilities: (K,).
        target: the class explained.
        grid: rows and columns of patches.
        maps: name -> relevance, float32 (N,).
        effect: what the gate did, if there is one.
        features: the strongest features over all gated layers, strongest first.
        removals: what happened without the most relevant patches, per fill.
        terms: all features of every patch, if they are kept.
    """

    picture: Picture
    probabilities: np.ndarray
    target: int
    grid: tuple[int, int]
    maps: dict[str, np.ndarray]
    effect: GateEffect | None = None
    features: list[Feature] = field(default_factory=list)
    removals: list[Removal] = field(default_factory=list)
    terms: list[Terms] = field(default_factory=list)

    def shares(self, name: str) -> np.ndarray:
        """The map as shares of its total, float64 (N,)."""
        return shares(self.maps[name])


def title(method: str) -> str:
    """The title of a map."""
    return f"gated {find_method(PLAIN).title}" if method == GATED else find_method(method).title


def explain(subject: Subject, picture: Picture, settings: Settings) -> Explanation:
    """Explain one image.

    Raises:
        FggError: the class names do not fit the model, or a map holds values that are not finite.
    """
    name, image, target, gates = picture.name, picture.tensor, settings.target, {}
    maps, logits, grid = {}, torch.empty(1, 0), None
    for method in settings.methods:
        by_gate = {"gate": settings.gate, "saes": settings.saes} if method == GATED else {}
        found = attribute(
            subject.model, image, PLAIN if method == GATED else method, target=target, image_ids=[name],
            seed=settings.seed, **by_gate,
        )  # fmt: skip
        maps[method] = found.relevance[0].float().cpu().numpy()
        if not np.isfinite(maps[method]).all():
            raise FggError(f"{name}: the map {method} holds values that are not finite; leave it out of --method")
        logits, grid, target = found.logits, found.grid, int(found.target[0])
        if method == GATED:
            gates = {layer: values[0].cpu().numpy() for layer, values in found.gates.items()}
    if len(subject.classes) != logits.shape[1]:
        raise FggError(f"{len(subject.classes)} class names for a model with {logits.shape[1]} classes")
    assert grid is not None and target is not None
    probabilities = logits[0].double().softmax(-1).cpu().numpy()
    result = Explanation(picture, probabilities, target, grid, maps)
    if settings.gate is not None:
        terms = []
        if settings.has_features:
            terms = feature_terms(subject.model, image, settings.gate, settings.saes, target)
        top = patches_of(settings.remove or TOP, len(maps[GATED]))
        result.effect = gate_effect(maps[PLAIN], maps[GATED], gates, terms, top)
        result.features = strongest(terms, settings.features)
        result.terms = terms if settings.keep_terms else []
    if settings.remove:
        result.removals = removals(
            subject.model, image, subject.preprocess, maps, target, settings.fills, settings.remove, settings.draws,
            settings.seed, name,
        )  # fmt: skip
    return result
