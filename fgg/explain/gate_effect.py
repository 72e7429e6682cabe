"""What a gate did to the map of an image: which patches gained and lost relevance, and through which features.

Two maps differ in their totals, so that their values cannot be compared. Everything here compares shares: the relevance of a
patch divided by the sum of the sizes of all patches' relevance. N patches, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.attribution.gate import Gate
from fgg.cases.case_tables import BOOST, SUPPRESS
from fgg.cases.features import contributions
from fgg.models.capture import capture
from fgg.models.vit import at_patches
from fgg.saes.codes import codes_of, decoder_of

CHANGED = 3  # patches that are named in each direction
AT_PATCH = 2  # features that are named for a patch and layer


@dataclass(frozen=True)
class Terms:
    """The features of an image at a gated layer.

    Attributes:
        layer: the gated block.
        activations: f_k at every patch, float32 (N, F).
        gradients: h_k at every patch, float32 (N, F).
        terms: their terms in the gate's score, float64 (N, F); the sum over the features is the score.
    """

    layer: int
    activations: np.ndarray
    gradients: np.ndarray
    terms: np.ndarray


@dataclass(frozen=True)
class Feature:
    """The contribution of an SAE feature to the gate of an image.

    Attributes:
        layer: the gated block.
        feature: its index in the SAE.
        contribution: its terms in the gate's score, summed over the patches.
        share: the sizes of these terms, as a share of those of all features of the layer.
        patch: the patch where its term is strongest in the direction of the contribution.
    """

    layer: int
    feature: int
    contribution: float
    share: float
    patch: int

    @property
    def effect(self) -> str:
        """BOOST if the feature raises the gate's score, else SUPPRESS."""
        return BOOST if self.contribution > 0 else SUPPRESS


@dataclass(frozen=True)
class Changed:
    """A patch whose share of the relevance changed.

    Attributes:
        patch: its number, row by row from 0.
        before, after: its share of the relevance without and with the gate.
        gates: layer -> the factor that the gate applied to it.
        features: layer -> pairs (feature, signed share of the patch's score), largest first. The share is the feature's term
            divided by the sum of the sizes of all terms of the patch.
    """

    patch: int
    before: float
    after: float
    gates: dict[int, float]
    features: dict[int, list[tuple[int, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class GateEffect:
    """What a gate did to the map of an image.

    Attributes:
        moved: the share of the relevance that lies on other patches than before, from 0 to 1.
        kept: how many of the ``top`` most relevant patches before are among the ``top`` most relevant after.
        top: a number of patches.
        factors: layer -> smallest and largest gate.
        gained, lost: the patches whose share changed most in each direction, largest change first.
    """

    moved: float
    kept: int
    top: int
    factors: dict[int, tuple[float, float]]
    gained: list[Changed]
    lost: list[Changed]


def shares(relevance: np.ndarray) -> np.ndarray:
    """Relevance (N,) divided by the sum of its sizes: float64 (N,). A map that is 0 everywhere stays so."""
    values = relevance.astype(np.float64)
    total = np.abs(values).sum()
    return values / total if total > 0 else values


def most_relevant(relevance: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` patches with the largest relevance, largest first; ties by patch index, as in the metrics."""
    return np.argsort(-relevance.astype(np.float64), kind="stable")[:count]


def feature_terms(
    model: VisionTransformer, image: Tensor, gate: Gate, saes: Mapping[int, Any], target: int
) -> list[Terms]:
    """The features of an image (1, C, H, W) at every gated layer.

    Args:
        saes: layer -> SAE.
        target: the class explained.
    """
    seen = capture(model, image, torch.tensor([target], device=image.device), layers=gate.layers)
    found = []
    for layer in gate.layers:
        residual = at_patches(model, seen.residuals[layer])
        with torch.no_grad():
            codes = codes_of(saes[layer], residual, layer)[0]
            gradients = (at_patches(model, seen.gradients[layer]) @ decoder_of(saes[layer], residual).T)[0]
            terms = contributions(gate.construction, codes, gradients).double()
        found.append(Terms(layer, codes.float().cpu().numpy(), gradients.float().cpu().numpy(), terms.cpu().numpy()))
    return found


def strongest(terms: Sequence[Terms], count: int) -> list[Feature]:
    """The features with the largest summed terms in the gate's score over all gated layers, largest first."""
    found = []
    for each in terms:
        total, sizes = each.terms.sum(0), np.abs(each.terms).sum(0)
        for feature in np.argsort(-np.abs(total), kind="stable")[:count]:
            if total[feature] != 0:
                patch = int((each.terms[:, feature] * np.sign(total[feature])).argmax())
                share = float(sizes[feature] / sizes.sum())
                found.append(Feature(each.layer, int(feature), float(total[feature]), share, patch))
    return sorted(found, key=lambda feature: -abs(feature.contribution))[:count]


def gate_effect(
    before: np.ndarray, after: np.ndarray, gates: Mapping[int, np.ndarray], terms: Sequence[Terms], top: int
) -> GateEffect:
    """What the gate did.

    Args:
        before, after: relevance without and with the gate, (N,).
        gates: layer -> gates, (N,).
        terms: the features at the gated layers; empty for a gate without SAE.
        top: the number of most relevant patches that are compared.
    """
    old, new = shares(before), shares(after)
    change = new - old

    def named(patch: int) -> Changed:
        factors = {layer: float(own[patch]) for layer, own in gates.items()}
        features = {each.layer: at_patch(each.terms[patch]) for each in terms}
        return Changed(patch, float(old[patch]), float(new[patch]), factors, features)

    up = [int(patch) for patch in np.argsort(-change, kind="stable")[:CHANGED] if change[patch] > 0]
    down = [int(patch) for patch in np.argsort(change, kind="stable")[:CHANGED] if change[patch] < 0]
    return GateEffect(
        float(np.abs(change).sum() / 2),
        len(set(most_relevant(before, top)) & set(most_relevant(after, top))),
        top,
        {layer: (float(own.min()), float(own.max())) for layer, own in gates.items()},
        [named(patch) for patch in up],
        [named(patch) for patch in down],
    )


def at_patch(terms: np.ndarray) -> list[tuple[int, float]]:
    """The features (index, signed share) with the largest terms of a patch (F,), largest first, without those of 0."""
    sizes = np.abs(terms)
    chosen = np.argsort(-sizes, kind="stable")[:AT_PATCH]
    return [(int(feature), float(terms[feature] / sizes.sum())) for feature in chosen if sizes[feature] > 0]
