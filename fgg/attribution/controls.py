"""Controls that a gated map must beat before its gate can be credited, and randomised models and SAEs.

If a map stays the same when the learnt weights are randomised, it does not explain what was learnt (Adebayo et al.
2018, Sanity Checks for Saliency Maps).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from fgg.models import model_files
from fgg.randomness import generator


def random_relevance(image_ids: Sequence[str], patches: int, seed: int) -> np.ndarray:
    """Uniform relevance keyed by (seed, image_id): float32 (B, N)."""
    rows = [generator(seed, "random", name).random(patches, dtype=np.float32) for name in image_ids]
    return np.stack(rows) if rows else np.empty((0, patches), np.float32)


def permutation(image_ids: Sequence[str], patches: int, layer: int, seed: int) -> np.ndarray:
    """For each image, a random order of its patches, keyed by (seed, image_id, layer): int64 (B, N).

    The permuted-gate control gives patch i the gate of patch ``order[i]``: the same values at other patches.
    """
    rows = [generator(seed, "permuted_gate", name, layer).permutation(patches) for name in image_ids]
    return np.stack(rows) if rows else np.empty((0, patches), np.int64)


def sharpen(vanilla: np.ndarray, gated: np.ndarray) -> np.ndarray:
    """Vanilla relevance raised to the power that gives it the gated map's spread; signs are kept.

    The spread is the standard deviation of the logarithm of |relevance| over the patches where it is not 0. The
    ranking of the vanilla map is kept, so a metric can gain here only by contrast.

    Args:
        vanilla: (B, N), relevance without a gate.
        gated: (B, N), relevance of the same images with a gate.

    Returns:
        float32 (B, N); a row is NaN where a map has fewer than two patches that are not 0.
    """

    def spread(rows: np.ndarray) -> np.ndarray:
        positive = rows != 0
        logs = np.log(np.where(positive, np.abs(rows), 1.0).astype(np.float64))
        count = positive.sum(1)
        enough = count >= 2
        count = np.where(enough, count, 1)
        centred = np.where(positive, logs - logs.sum(1, keepdims=True) / count[:, None], 0.0)
        return np.where(enough, np.sqrt((centred**2).sum(1) / count), np.nan)

    size = np.abs(vanilla)
    largest = size.max(1, keepdims=True).astype(np.float64)
    before, after = spread(vanilla), spread(gated)
    # A constant map stays constant under every power.
    power = np.divide(after, before, out=np.ones_like(after), where=before != 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        raised = np.where(size > 0, np.sign(vanilla) * largest * (size / largest) ** power[:, None], 0.0)
        return np.where(np.isnan(power)[:, None], np.nan, raised).astype(np.float32)


def laid(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Arrange the values of one map in the order of another, so that the largest value is where the other is largest.

    Ties in the order are broken by patch index. Combining the gated map's values with TransMM's order, or the reverse,
    separates the effect of a gate on the values from its effect on the order.

    Args:
        values: (B, N), the map that gives the values.
        order: (B, N), the map that gives the order.

    Returns:
        float32 (B, N); a row is NaN where one of the maps has a NaN.
    """
    places = np.argsort(-order, axis=1, kind="stable")
    found = np.empty(values.shape, np.float32)
    np.put_along_axis(found, places, -np.sort(-values, axis=1).astype(np.float32), axis=1)
    unknown = np.isnan(values).any(1) | np.isnan(order).any(1)
    return np.where(unknown[:, None], np.float32(np.nan), found)


def powered(relevance: np.ndarray, power: float) -> np.ndarray:
    """Relevance (B, N) raised to a power: float32 (B, N).

    The signs and the largest absolute value are kept, so the order stays the same and the spread changes.
    """
    largest = np.abs(relevance).max(1, keepdims=True).astype(np.float64)
    share = np.divide(np.abs(relevance), largest, out=np.zeros(relevance.shape), where=largest > 0)
    return (np.sign(relevance) * largest * share**power).astype(np.float32)


def randomized_model(record: Mapping[str, Any], seed: int) -> VisionTransformer:
    """The architecture of a model.json with fresh weights, keyed by the seed, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(seed, "randomized_model").integers(2**62)))
        return model_files.blank(record)


def randomized_sae(sae: Any, seed: int, layer: int) -> Any:
    """A copy of an SAE whose weight matrices have their entries shuffled, keyed by (seed, layer).

    The distribution of the weights and the biases stay the same; the meaning of the features is lost.
    """
    shuffled = copy.deepcopy(sae)
    for name in ("W_enc", "W_dec"):
        weight = getattr(shuffled, name)
        order = torch.from_numpy(generator(seed, "randomized_sae", layer, name).permutation(weight.numel()))
        weight.data = weight.data.flatten()[order.to(weight.device)].view(weight.shape)
    return shuffled
