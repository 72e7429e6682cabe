"""Feature-gradient gating: the method.

Letters for shapes: B images, N patches, T tokens (prefix tokens such as the class token come first),
D width, F features. All functions are pure, batched, and work on any device and float dtype.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def score(
    construction: str,
    residual: Tensor,
    gradient: Tensor,
    codes: Tensor | None = None,
    decoder: Tensor | None = None,
) -> Tensor:
    """The gate score s of each patch.

    With activations f = ``codes`` and feature gradients h = gradient @ decoder^T:
    ``combined`` is sum_k f_k h_k, ``activation_only`` sum_k f_k, ``gradient_only`` sum_k h_k, and
    ``no_sae`` the residual times its gradient. The F feature gradients are never formed: sum_k f_k h_k
    equals (f @ decoder) . gradient.

    Args:
        construction: one of ``fgg.catalogue.CONSTRUCTIONS``.
        residual: (B, N, D), the residual stream at the patches.
        gradient: (B, N, D), d logit / d residual.
        codes: (B, N, F), SAE activations of the residual; not for ``no_sae``.
        decoder: (F, D), the SAE's decoder, its rows shuffled for the shuffled control.

    Returns:
        (B, N), in the dtype of the residual.
    """
    if construction == "no_sae":
        return (residual * gradient).sum(-1)
    if construction == "combined" and codes is not None and decoder is not None:
        return ((codes @ decoder) * gradient).sum(-1)
    if construction == "activation_only" and codes is not None:
        return codes.sum(-1)
    if construction == "gradient_only" and decoder is not None:
        return gradient @ decoder.sum(0)
    raise ValueError(f"construction {construction!r} is unknown, or lacks the SAE's codes or decoder")


def standardise(score: Tensor) -> Tensor:
    """s~ = (s - median) / (1.4826 (MAD + 1e-8)) over the patches of each image; (B, N) to (B, N).

    Median and MAD are the lower middle for an even number of patches, as torch.median gives them. The floor
    stands inside the factor, as in the research code; it matters for scores of pure rounding only.
    """
    centred = score - score.median(-1, keepdim=True).values
    spread = centred.abs().median(-1, keepdim=True).values
    return centred / (1.4826 * (spread + 1e-8))


def gate(score: Tensor, clamp_max: float = 10.0, alpha: float = 1.0) -> Tensor:
    """Gate = clamp_max ** tanh(alpha s~), between 1 / clamp_max and clamp_max; (B, N) to (B, N)."""
    return clamp_max ** torch.tanh(alpha * standardise(score))


def shuffle(features: int, seed: int) -> Tensor:
    """The order in which the shuffled control reads the decoder's rows: int64 (F,), from a CPU generator."""
    return torch.randperm(features, generator=torch.Generator().manual_seed(seed))


def relevance(cams: Sequence[Tensor], readout: Tensor, gates: Mapping[int, Tensor] | None = None) -> Tensor:
    """Gated TransMM relevance of the tokens.

    TransMM (Chefer et al. 2021, eq. 5 and 6) starts at R = I and applies R <- R + C_l R from the first
    block to the last. Of R only one row is read, so that row is carried from the last block to the first
    instead: v <- v + v C_l. A gate at layer l multiplies the patch columns of C_l.

    Args:
        cams: for each block C_l = mean_h max(A * dz/dA, 0), (B, T, T).
        readout: (B, T), the row of the identity that the head reads (class token), or a mean of such rows.
        gates: layer -> (B, N), for the last N tokens.

    Returns:
        (B, T), the relevance of every token.
    """
    gates = gates or {}
    row = readout
    for layer in reversed(range(len(cams))):
        row = row + through_gate(torch.einsum("bt,bts->bs", row, cams[layer]), gates.get(layer))
    return row


def through_gate(step: Tensor, gate: Tensor | None) -> Tensor:
    """Multiply the relevance of the patches in a row (B, T) by a gate (B, N) for its last N tokens; None changes nothing."""
    if gate is None:
        return step
    patches = gate.shape[-1]
    return torch.cat([step[:, :-patches], step[:, -patches:] * gate], dim=1)
