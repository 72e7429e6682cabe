"""SAEs whose features are a basis instead of learnt: the residuals' principal directions, or the residual's own axes.

They tell what a gate gains without any learnt dictionary. Each direction gives two features, one per sign, because a
code is never negative; with all of them the reconstruction is exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fgg.saes.sae import build_sae

PCA, IDENTITY = "pca", "identity"
CANCELS = "the features come in pairs of opposite sign, whose gradients cancel: a gate of gradient_only is 1 everywhere"
CHUNK = 65536  # rows in float64 at once


def pca(rows: Tensor | Iterable[Tensor]) -> Any:
    """The SAE of the principal directions of rows (n, D), given at once or in parts; the strongest first.

    Feature 2i is the positive part of component i, feature 2i + 1 its negative part; b_dec is the mean of the rows.
    """
    count, start, total, products = 0, None, None, None
    for part in [rows] if isinstance(rows, Tensor) else rows:
        for chunk in part.split(CHUNK):
            if start is None:  # sums of differences from a row near the mean lose no digits
                start = chunk.double().mean(0)
                total, products = torch.zeros_like(start), torch.zeros_like(start.outer(start))
            centred = chunk.double() - start
            count += len(chunk)
            total += centred.sum(0)
            products += centred.T @ centred
    assert start is not None and total is not None and products is not None
    mean, covariance = start + total / count, products - total.outer(total) / count
    directions = torch.linalg.eigh(covariance.cpu()).eigenvectors.T.flip(0)
    # The sign of an eigenvector is arbitrary: make its largest entry positive.
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return _signed(directions * largest.sign(), mean.cpu()).to(start.device)


def identity(width: int) -> Any:
    """The SAE of the residual's own axes: feature 2i is the positive part of dimension i, feature 2i + 1 its negative part."""
    return _signed(torch.eye(width), torch.zeros(width))


def _signed(directions: Tensor, mean: Tensor) -> Any:
    """The SAE of orthonormal directions (K, D), each with both signs."""
    decoder = torch.stack([directions, -directions], dim=1).flatten(0, 1).contiguous()
    tensors = {"W_enc": decoder.T.contiguous(), "W_dec": decoder, "b_enc": torch.zeros(len(decoder)), "b_dec": mean}
    return build_sae(tensors)
