"""Delete SAE features from the residual stream, and run the rest of the model.

A feature f is deleted from an image by taking its part of the reconstruction, a_f W_dec[f], out of the residual stream at
every patch where it is active. All else stays: the other features, the bias, and what the SAE does not reconstruct. A
feature's score, the sum over the patches of its activation times the gradient along its decoder row, is the first-order
prediction of how much the logit falls (attribution patching; for SAE features Marks et al. 2024, Sparse Feature Circuits).

Symbols: B images, T tokens of which N are patches, D width, F features, S deletions of up to k features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import pad

from fgg.models.capture import at_rest
from fgg.models.vit import at_patches
from fgg.perturbation.token_path import rest_of_rows
from fgg.saes.codes import codes_of, decoder_of

NONE = -1  # fills up the rows of deletions with fewer features


@dataclass(frozen=True)
class Features:
    """The features of B images at a layer.

    Attributes:
        tokens: (B, T, D), the residual stream at the layer's end.
        parts: (B, N, F), such that ``parts[b, n, f] * rows[f]`` is what feature f adds to the reconstruction at a patch.
        rows: (F, D).
        scores: float32 (B, F), the features' terms in the gate's score, sum over patches of activation x gradient.
        expected: float32 (B, F), first-order prediction of the logit's change if the feature is deleted. It is minus the
            score, unless the SAE normalises its input.
        activation: float32 (B, F), sum over patches of the absolute activation.
    """

    tokens: Tensor
    parts: Tensor
    rows: Tensor
    scores: Tensor
    expected: Tensor
    activation: Tensor


def features_of(model: VisionTransformer, sae: Any, layer: int, tokens: Tensor, gradient: Tensor) -> Features:
    """The features of images from the residual stream (B, T, D) after a layer and its gradient (B, T, D).

    Args:
        sae: any object with ``encode`` and ``W_dec`` (F, D); see `fgg.saes.codes`.
    """
    with torch.no_grad():
        residual, slope = at_patches(model, tokens), at_patches(model, gradient)
        codes, decoder = codes_of(sae, residual, layer), decoder_of(sae, residual)
        size, rows = scale(sae, residual), rows_of(sae, decoder)
        parts = codes if size is None else codes * size
        scores = (codes * (slope @ decoder.T)).sum(1).float()
        same = size is None and rows is decoder
        expected = -scores if same else -(parts * (slope @ rows.T)).sum(1).float()
        return Features(tokens, parts, rows, scores, expected, codes.abs().sum(1).float())


def scale(sae: Any, residual: Tensor) -> Tensor | None:
    """What a sae-lens SAE that normalises its input multiplies the decoder's output by, (B, N, 1); None for others."""
    kind = getattr(getattr(sae, "cfg", None), "normalize_activations", None)
    if kind == "layer_norm":
        return residual.std(-1, keepdim=True)
    if kind == "constant_norm_rescale":
        return residual.norm(dim=-1, keepdim=True) / residual.shape[-1] ** 0.5
    return None


def rows_of(sae: Any, decoder: Tensor) -> Tensor:
    """The directions (F, D) that codes are multiplied by: the decoder, of length 1 for SAEs that measure codes in it."""
    if getattr(getattr(sae, "cfg", None), "rescale_acts_by_decoder_norm", False):
        return decoder / decoder.norm(dim=-1, keepdim=True)
    return decoder


def removed(features: Features, image: Tensor, deleted: Tensor) -> Tensor:
    """What deletions take out of the patches, (S, N, D).

    Args:
        image: int64 (S,), the place of each deletion's image.
        deleted: int64 (S, k), features, filled up with `NONE`.
    """
    chosen = deleted.clamp(min=0)
    patches = torch.arange(features.parts.shape[1], device=deleted.device)
    parts = features.parts[image[:, None, None], patches[None, :, None], chosen[:, None, :]]
    parts = parts.masked_fill((deleted == NONE)[:, None, :], 0)
    return torch.bmm(parts, features.rows[chosen])


def delete(
    model: VisionTransformer, layer: int, features: Features, image: Tensor, deleted: Tensor, rows: int
) -> tuple[Tensor, Tensor]:
    """Logits after deletions, at most ``rows`` of them in a pass.

    Args:
        image: int64 (S,), the place of each deletion's image.
        deleted: int64 (S, k), features, filled up with `NONE`; a row without a feature gives the logits without a deletion.

    Returns:
        Logits, float32 (S, K), and the norm of what is taken out relative to the norm of the patches, float32 (S,).
    """
    prefix = model.num_prefix_tokens
    logits, shares = [], []
    with at_rest(model), torch.no_grad():
        for own, numbers in zip(image.split(rows), deleted.split(rows), strict=True):
            out, tokens = removed(features, own, numbers), features.tokens[own]
            shares.append(out.float().flatten(1).norm(dim=1) / tokens[:, prefix:].float().flatten(1).norm(dim=1))
            logits.append(rest(model, layer, tokens - pad(out, (0, 0, prefix, 0))).float())
    return torch.cat(logits), torch.cat(shares)


def rest(model: VisionTransformer, layer: int, tokens: Tensor) -> Tensor:
    """Logits (B, K) from the residual stream (B, T, D) after a layer: the blocks after it, the norm and the head."""
    return rest_of_rows(model, tokens, layer + 1)
