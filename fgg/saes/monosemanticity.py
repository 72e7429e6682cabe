"""Whether the images that activate a feature are alike: the monosemanticity score, and the selectivity for classes.

An image's activation of a feature is the largest over its patches.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from fgg import randomness

LEAST_PER_CLASS = 5  # images; with fewer, every feature looks selective
ROUNDING = 1e-9  # of squared sums, below which a difference of them is 0


class Monosemanticity:
    """The monosemanticity score of every feature, from a stream of images in memory that does not grow.

    MS (Pach et al. 2025, arXiv 2504.02821; ViSAEBench's M5) is the mean cosine similarity of all pairs of images, weighted by
    the product of their activations a, which are shifted so that a feature's smallest one is 0:

        MS = sum_{n != m} a_n a_m cos(e_n, e_m) / sum_{n != m} a_n a_m.

    With unit vectors e, it follows from sums over images alone: (|sum a e|^2 - sum a^2) / ((sum a)^2 - sum a^2).
    If the activations had nothing to do with the images, its expectation would be the mean similarity of all pairs.

    Args:
        features: F.
        width: of the images' embeddings, E.
        device: of the activations.
    """

    def __init__(self, features: int, width: int, device: torch.device | str = "cpu") -> None:
        exact: dict[str, Any] = {"dtype": torch.float64, "device": device}
        self._weighted = torch.zeros(features, width, **exact)
        self._sum, self._square = torch.zeros(features, **exact), torch.zeros(features, **exact)
        self._least = torch.full((features,), torch.inf, **exact)
        self._embedded = torch.zeros(width, **exact)
        self._images = 0

    @torch.no_grad()
    def update(self, activations: Tensor, embeddings: Tensor) -> None:
        """Add the activations (B, F) of some images and their embeddings (B, E), of any length."""
        a, e = activations.double(), normalize(embeddings.double(), dim=1)
        self._weighted += a.T @ e
        self._sum += a.sum(0)
        self._square += a.square().sum(0)
        self._least = torch.minimum(self._least, a.amin(0))
        self._embedded += e.sum(0)
        self._images += len(a)

    def scores(self) -> Tensor:
        """MS per feature, float64 (F,); NaN for a feature with fewer than two images above its smallest activation."""
        n, least = self._images, self._least
        weighted = (self._weighted - least[:, None] * self._embedded).square().sum(1)
        total = (self._sum - n * least).square()
        square = self._square - 2 * least * self._sum + n * least.square()
        scale = self._sum.square() + n * self._square
        pairs = total - square
        return torch.where(pairs > ROUNDING * scale, (weighted - square) / pairs, torch.nan)

    def result(self) -> dict[str, Any]:
        """The mean score, that of random activations, and the number of features with a score; NaN if undefined."""
        scores = self.scores()
        known = scores[~scores.isnan()]
        n = self._images
        alike = (float(self._embedded.square().sum()) - n) / (n * (n - 1)) if n > 1 else math.nan
        return {
            "monosemanticity": float(known.mean()),
            "monosemanticity_random": alike,
            "monosemanticity_features": len(known),
        }


class ClassSelectivity:
    """How far a feature prefers classes: 1 - H / log K, H the entropy of its mean activations per class, as shares.

    It is 1 for a feature of one class and 0 for one with equal means in all K. Few images make every feature look
    selective, so the same is computed with shuffled labels.

    Args:
        features: F.
        labels: int64 (n,), the classes of all images of the stream, in its order.
        seed: of the shuffled labels.
        device: of the activations.
    """

    def __init__(self, features: int, labels: np.ndarray, seed: int, device: torch.device | str = "cpu") -> None:
        present, own = np.unique(labels, return_inverse=True)
        self._classes, self._done = len(present), 0
        self.possible = len(present) > 1 and len(labels) >= LEAST_PER_CLASS * len(present)
        shuffled = randomness.generator(seed, "class selectivity").permutation(own)
        self._labels = [torch.from_numpy(each).to(device) for each in (own, shuffled)]
        self._sums = [
            torch.zeros(len(present) if self.possible else 0, features, dtype=torch.float64, device=device)
            for _ in self._labels
        ]

    @torch.no_grad()
    def update(self, activations: Tensor) -> None:
        """Add the activations (B, F) of the next B images."""
        if not self.possible:
            return
        part = slice(self._done, self._done + len(activations))
        for labels, sums in zip(self._labels, self._sums, strict=True):
            sums += one_hot(labels[part], self._classes).double().T @ activations.clamp(min=0).double()
        self._done = part.stop

    def result(self) -> dict[str, Any]:
        """The mean over features that are active on some image, and the same with shuffled labels; NaN if undefined."""
        found = [math.nan, math.nan]
        if self.possible:
            count = one_hot(self._labels[0], self._classes).double().sum(0)
            found = [self._mean(sums / count[:, None]) for sums in self._sums]
        return {"class_selectivity": found[0], "class_selectivity_random": found[1]}

    def _mean(self, means: Tensor) -> float:
        shares = means[:, means.sum(0) > 0]
        shares = shares / shares.sum(0)
        entropy = -torch.special.xlogy(shares, shares).sum(0)
        return float((1 - entropy / math.log(self._classes)).mean())
