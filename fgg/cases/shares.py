"""How much of a patch's score a single feature makes up, so that it is not shown as if it were all of it.

The score of a gate is a sum of one term per feature, of both signs. A feature's share is the size of its term divided by the
sum of the sizes of all terms of the patch: from 0 to 1, and all shares of a patch add up to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg import gating
from fgg.attribution.gate import Gate
from fgg.cases.features import contributions
from fgg.cases.prototypes import MOST_FLOATS
from fgg.models.capture import capture
from fgg.models.vit import at_patches

CONTRIBUTION, SHARE = "contribution", "share"


def sizes_of_terms(
    model: VisionTransformer, images: Tensor, gate: Gate, saes: Mapping[int, Any], target: Tensor | None = None
) -> dict[int, Tensor]:
    """Layer -> the sum over all features of the size of their terms in the gate's score, float32 (B, N).

    Args:
        images: normalised, (B, C, H, W).
        saes: layer -> SAE.
        target: int64 (B,), the class explained; None takes the predicted one.
    """
    seen = capture(model, images, target, layers=gate.layers)
    found = {}
    for layer in gate.layers:
        decoder = saes[layer].W_dec.detach()
        if gate.shuffle_decoder:
            decoder = decoder[gating.shuffle(len(decoder), gate.shuffle_seed).to(decoder.device)]
        patches, slopes = (at_patches(model, each[layer]) for each in (seen.residuals, seen.gradients))
        step = max(1, MOST_FLOATS // (patches.shape[1] * len(decoder)))
        parts = []
        with torch.no_grad():
            for some, along in zip(patches.split(step), slopes.split(step), strict=True):
                terms = contributions(gate.construction, saes[layer].encode(some), along @ decoder.T)
                parts.append(terms.float().abs().sum(-1))
        found[layer] = torch.cat(parts)
    return found


def with_shares(cases: pd.DataFrame, sizes: Mapping[tuple[int, str], np.ndarray]) -> pd.DataFrame:
    """The table of cases with a column ``share`` after ``contribution``; empty where a row names no feature.

    Args:
        cases: with the columns layer, image_id, patch and contribution.
        sizes: (layer, image_id) -> the sums of `sizes_of_terms` of the image, (N,).
    """
    keys = cases[["layer", "image_id", "patch"]].itertuples(index=False)
    whole = np.array([sizes[layer, image_id][patch] for layer, image_id, patch in keys], dtype=np.float64)
    own = cases[CONTRIBUTION].abs().to_numpy(dtype=np.float64)
    shares = np.divide(own, whole, out=np.full(len(own), np.nan), where=whole > 0)
    found = cases.copy()
    found.insert(cases.columns.get_loc(CONTRIBUTION) + 1, SHARE, np.minimum(shares, 1))  # type: ignore[arg-type]
    return found
