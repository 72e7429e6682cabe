"""A sweep of twelve experiments, as the workflow computes it and one by one by the plain implementation.

The experiments are TransMM and the default study's gates at one and at two layers, with a random top-k SAE. The workflow's jobs
share one pass of the model for all maps, answers to random subsets, and versions of an image within a map and between maps
with the same order. The plain implementation does everything anew for every experiment.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fgg.attribution.attribute import Wanted, attribute_several
from fgg.attribution.gate import Gate
from fgg.attribution.registry import find_method
from fgg.bench import plain
from fgg.bench.timing import in_turn
from fgg.faithfulness import faithfulness_correlation, pixel_flipping, saco
from fgg.models.vit import patch_size
from fgg.perturbation.engine import Perturber
from fgg.perturbation.fills import make_fill

ROUNDS = 3
EXPANSION, K = 8, 24  # of the SAE, as in the default study
KINDS = (
    ("combined", False),
    ("activation_only", False),
    ("gradient_only", False),
    ("no_sae", False),
    ("combined", True),
)
Scores = dict[str, np.ndarray]


class TopK:
    """A top-k SAE with random weights: what it costs is what a trained one costs."""

    def __init__(self, width: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        self.W_dec = torch.randn(EXPANSION * width, width, generator=generator).to(device) / width**0.5
        self.k = min(K, width)

    def encode(self, residual: Tensor) -> Tensor:
        """Codes (…, F) of a residual stream (…, D)."""
        found = (residual @ self.W_dec.T).relu()
        largest = found.topk(self.k, dim=-1)
        return torch.zeros_like(found).scatter_(-1, largest.indices, largest.values)


def gates(depth: int) -> list[Gate | None]:
    """No gate, and those of the default study; twelve experiments with the sharpened control of `sweep`."""
    layers = [(depth // 3,), tuple(sorted({depth // 6, depth // 3}))]
    return [None, *(Gate(own, kind, shuffle_decoder=shuffled) for own in layers for kind, shuffled in KINDS)]


def sweep(model: Any, images: Tensor, subsets: Tensor, bins: int, wanted: list[Wanted]) -> list[Scores]:
    """Maps and scores of the experiments, as the workflow's jobs compute them."""
    ids = [str(number) for number in range(len(images))]
    engine = Perturber(model, images)
    engine = engine.using(make_fill("mean", images, patch_size(model), None, ids, 0))
    answers = faithfulness_correlation.responses(engine, subsets)
    scores = []
    for found in attribute_several(model, images, wanted, None, ids, 0):
        own = engine.for_one_map()
        scores.append(
            {
                "saco": saco.evaluate(own, found.relevance, bins=bins).score.cpu().numpy(),
                "faithfulness_correlation": faithfulness_correlation.correlate(found.relevance, subsets, answers)
                .cpu()
                .numpy(),
                "pixel_flipping": pixel_flipping.evaluate(own, found.relevance).auc.cpu().numpy(),
            }
        )
    return scores


def plain_experiment(model: Any, images: Tensor, subsets: Tensor, bins: int, gate: Gate | None, sae: TopK) -> Scores:
    """One experiment without any sharing: the map of each image, then the metrics."""
    relevance = torch.stack([plain.transmm(model, image[None], gate, sae) for image in images])
    maps = relevance.cpu().numpy().astype(np.float64)
    return plain.all_metrics(model, images.cpu().numpy(), maps, subsets.cpu().numpy(), bins)


def compare(
    model: Any, unfused: Any, images: Tensor, subsets: Tensor, bins: int, device: torch.device
) -> dict[str, float]:
    """Seconds of one experiment and of twelve, of a plain experiment, and how far the scores are apart.

    Args:
        unfused: the same model for the plain implementation, which changes it.
        subsets: int64 (B, runs, k).
    """
    method, sae = find_method("transmm"), TopK(model.embed_dim, device)
    each = gates(len(model.blocks))
    wanted = [Wanted(method, {}, gate, {} if gate is None else dict.fromkeys(gate.layers, sae)) for gate in each]
    wanted.append(Wanted(method, {}, each[1], wanted[1].saes, "sharpened"))
    seconds = in_turn(
        {
            "one": partial(sweep, model, images, subsets, bins, wanted[:1]),
            "twelve": partial(sweep, model, images, subsets, bins, wanted),
            # A gate at two layers: of the sweep's kinds the most frequent one.
            "plain": partial(plain_experiment, unfused, images, subsets, bins, each[-5], sae),
        },
        device,
        ROUNDS,
    )
    gaps = []
    for gate, own in zip(each[1:3], sweep(model, images, subsets, bins, wanted[1:3]), strict=True):
        other = plain_experiment(unfused, images, subsets, bins, gate, sae)
        gaps += [float(np.abs(own[name] - other[name]).max()) for name in own]
    return {
        "one_seconds": seconds["one"],
        "twelve_seconds": seconds["twelve"],
        "twelve_over_one": seconds["twelve"] / seconds["one"],
        "plain_experiment_seconds": seconds["plain"],
        "ratio_to_plain": len(wanted) * seconds["plain"] / seconds["twelve"],
        "largest_deviation": max(gaps),
    }
