"""What the metrics share: checks of their arguments, and the class whose probability they read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fgg.errors import FggError
from fgg.models.capture import check_target
from fgg.perturbation.engine import Perturber

PROTOCOLS = ("corrected", "thesis", "paper")


def check_protocol(protocol: str) -> None:
    """Raise FggError for an unknown protocol."""
    if protocol not in PROTOCOLS:
        raise FggError(f"protocol {protocol!r} is unknown; choose from {', '.join(PROTOCOLS)}")


def check_relevance(engine: Perturber, relevance: Tensor) -> Tensor:
    """The relevance (B, N) on the engine's device. Raises FggError if the shape does not fit."""
    if not isinstance(relevance, Tensor | np.ndarray | Sequence):
        kind = type(relevance).__name__
        raise FggError(f"relevance must be a tensor (images, patches), such as attribute(…).relevance, not a {kind}")
    relevance = torch.as_tensor(relevance)
    expected = (len(engine.images), engine.patches)
    if tuple(relevance.shape) != expected:
        raise FggError(f"relevance is {tuple(relevance.shape)}, expected {expected} (images, patches)")
    return relevance.detach().to(engine.images.device)


def class_of(engine: Perturber, target: Tensor | int | None) -> Tensor:
    """The class whose probability is read, int64 (B,): the target, or the predicted class.

    Raises FggError for an unknown class.
    """
    return engine.clean.argmax(-1) if target is None else check_target(target, engine.clean)


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
