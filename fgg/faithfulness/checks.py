"""What the metrics share: checks of their arguments, and the class whose probability they read."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fgg.errors import FggError
from fgg.models.call_arguments import as_tensor
from fgg.models.capture import check_target
from fgg.perturbation.engine import Perturber

ROUNDING = 1e-6  # relative to the largest value of an image
PROTOCOLS = ("corrected", "thesis", "paper")
FEWEST_RUNS = 3  # as in the schema; two runs always correlate by 1 or -1


class UndefinedScore(UserWarning):
    """Some scores are NaN, for a reason that the message gives."""


def check_protocol(protocol: str) -> None:
    """Raise FggError for an unknown protocol."""
    if protocol not in PROTOCOLS:
        raise FggError(f"protocol {protocol!r} is unknown; choose from {', '.join(PROTOCOLS)}")


def check_relevance(engine: Perturber, relevance: Tensor) -> Tensor:
    """The relevance (B, N) on the engine's device. Raises FggError if it is no such tensor of real numbers."""
    relevance = as_tensor(relevance, "relevance", "a tensor (images, patches), such as attribute(…).relevance")
    expected = (len(engine.images), engine.patches)
    if tuple(relevance.shape) != expected:
        raise FggError(f"relevance is {tuple(relevance.shape)}, expected {expected} (images, patches)")
    return relevance.to(engine.images.device)


def check_subsets(engine: Perturber, subsets: Tensor | np.ndarray | Sequence) -> Tensor:
    """Subsets of patches, int64 (B, runs, k). Raises FggError for what is none, too few runs, and a patch named twice."""
    try:
        found = torch.as_tensor(subsets)
    except (TypeError, ValueError):
        found = torch.empty(0)
    whole = not (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool)
    if found.ndim != 3 or len(found) != len(engine.images) or not whole:
        raise FggError(
            "subsets must be int64 (images, runs, patches per subset), such as "
            "fgg.draw_subsets(image_ids, patches, 1, runs, subset_size, seed)[:, 0]"
        )
    _, runs, size = found.shape
    if runs < FEWEST_RUNS:
        raise FggError(
            f"subsets hold {runs} runs; a correlation needs at least {FEWEST_RUNS}, and 20 or more to mean much"
        )
    if not 0 < size < engine.patches:
        raise FggError(f"subsets name {size} of {engine.patches} patches; name at least one, and not all")
    if found.numel() and not 0 <= int(found.min()) <= int(found.max()) < engine.patches:
        raise FggError(f"subsets must name patches from 0 to {engine.patches - 1}")
    ordered = found.sort(-1).values
    if (ordered[..., 1:] == ordered[..., :-1]).any():
        raise FggError("subsets name a patch twice; within a subset every patch may occur once")
    return found


def class_of(engine: Perturber, target: Tensor | int | None) -> Tensor:
    """The class whose probability is read, int64 (B,): the target, or the predicted class.

    Raises FggError for an unknown class.
    """
    return engine.clean.argmax(-1) if target is None else check_target(target, engine.clean)


def unchanged(engine: Perturber) -> Tensor:
    """The images that the engine's fill leaves as they are, bool (B,), such as those of one colour filled with their mean.

    What then differs between versions of the image is rounding.
    """
    images, fill = engine.images, engine.fill
    if fill is not None and fill.kind not in ("value", "image"):
        return torch.zeros(len(images), dtype=torch.bool, device=images.device)
    values = engine.mean if fill is None or fill.values is None else fill.values
    if values.ndim == 1:
        filled = values[:, None, None, None]
    elif values.ndim == 2:
        size = [length // count for length, count in zip(images.shape[2:], engine.grid, strict=True)]
        rows = values.unflatten(-1, engine.grid).repeat_interleave(size[0], -2)
        filled = rows.repeat_interleave(size[1], -1)[:, None]
    else:
        filled = values
    change = (images.float() - filled.float()).abs().flatten(1).amax(1)
    return change <= ROUNDING * images.float().abs().flatten(1).amax(1).clamp(min=1)


def tell_undefined(name: str, scores: Tensor, reasons: Mapping[str, Tensor]) -> Tensor:
    """The scores (B,), after a warning that counts those that are NaN by their reason.

    Args:
        reasons: reason -> the images for which it holds, bool (B,); the first that holds counts.
    """
    left, told = scores.isnan(), []
    for reason, holds in reasons.items():
        own = left & holds.to(left.device)
        if own.any():
            told.append(f"{int(own.sum())} because {reason}")
        left = left & ~own
    if left.any():
        told.append(f"{int(left.sum())} because too few values differ")
    if told:
        text = f"{name}: NaN for {int(scores.isnan().sum())} of {len(scores)} images: {', '.join(told)}"
        warnings.warn(text, UndefinedScore, stacklevel=4)
    return scores


def probability(logits: Tensor, chosen: Tensor) -> Tensor:
    """Probability of the chosen class in every version: logits (B, V, K) and classes (B,) to float64 (B, V)."""
    rows = logits.double().softmax(-1)
    return rows.gather(2, chosen[:, None, None].expand(-1, rows.shape[1], 1))[..., 0]


def tied_patches(relevance: Tensor) -> Tensor:
    """How many patches share their relevance with another, int64 (B,)."""
    ordered = relevance.sort(-1).values
    same = ordered[:, 1:] == ordered[:, :-1]
    pad = torch.nn.functional.pad
    return (pad(same, (1, 0)) | pad(same, (0, 1))).sum(-1)


def mean_ranks(values: Tensor) -> Tensor:
    """Float64 ranks along the last dimension, from 1; ties get their mean rank. A series with a NaN has NaN ranks."""
    below = (values[..., None, :] < values[..., :, None]).sum(-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(-1)
    ranks = below.double() + (equal + 1).double() / 2
    return torch.where(values.isnan().any(-1, keepdim=True), torch.nan, ranks)
