"""Grad-CAM on tokens (Selvaraju et al. 2017)."""

from __future__ import annotations

from torch import Tensor


def relevance(residual: Tensor, gradient: Tensor) -> Tensor:
    """max(sum_d w_d r_d, 0) with w the mean gradient over the patches.

    Args:
        residual: (B, N, D), the residual stream at the patches after the last block but one.
        gradient: (B, N, D), d logit / d residual.

    Returns:
        (B, N).
    """
    weights = gradient.mean(1, keepdim=True)
    return (residual * weights).sum(-1).clamp(min=0)
