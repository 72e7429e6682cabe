"""How well an SAE reconstructs residuals, how its features are used, and what a log warns of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

MOST_CODES = 2**26  # in memory at once, while an SAE is measured
DENSE = 0.1  # a feature is dense if it is active on a larger share of the tokens than this
LOWEST, STEP, BINS = -5.0, 0.25, 20  # of the histogram of log10(frequency), which ends at 0


class Reconstruction:
    """Reconstruction, sparsity and use of the features, collected from a stream of rows in memory that does not grow.

    A feature is active where its code is not 0. Explained variance, cosine similarity, L0 and frequencies are those of
    SAEBench (Karvonen et al. 2025, core evaluation) as sae-lens computes them.

    Args:
        features: F.
        width: D.
        device: of the rows.
    """

    def __init__(self, features: int, width: int, device: torch.device | str = "cpu") -> None:
        self._shift: Tensor | None = None  # sums are taken around it, so that a large mean costs no digits
        self._sum = torch.zeros(width, dtype=torch.float64, device=device)
        self._square = self._residual = self._cosine = 0.0
        self._active = torch.zeros(features, dtype=torch.int64, device=device)
        self._l0 = torch.zeros(features + 1, dtype=torch.int64, device=device)
        self.tokens = 0

    @torch.no_grad()
    def update(self, rows: Tensor, codes: Tensor, again: Tensor) -> None:
        """Add residuals (n, D), their codes (n, F) and their reconstructions (n, D)."""
        exact = rows.double()
        if self._shift is None:
            self._shift = exact.mean(0)
        centred = exact - self._shift
        self._sum += centred.sum(0)
        self._square += float(centred.square().sum())
        self._residual += float((exact - again).square().sum())
        self._cosine += float(torch.cosine_similarity(exact, again.double(), dim=1).sum())
        active = codes != 0
        self._active += active.sum(0)
        self._l0 += torch.bincount(active.sum(1), minlength=len(self._l0))
        self.tokens += len(rows)

    @property
    def mean(self) -> Tensor:
        """The mean of the rows, float64 (D,)."""
        assert self._shift is not None
        return self._shift + self._sum / self.tokens

    @property
    def frequencies(self) -> Tensor:
        """The share of the tokens on which each feature is active, float64 (F,)."""
        return self._active.double() / self.tokens

    def result(self) -> dict[str, Any]:
        """The measurements as single numbers; NaN for what is undefined.

        ``explained_variance`` is 1 - ``fvu``; ``fvu`` is sum ||x - x'||^2 / sum ||x - mean||^2; ``cosine_similarity`` is the
        mean over tokens of cos(x, x'); ``l0``, ``l0_low``, ``l0_median`` and ``l0_high`` are mean and quartiles of the number of
        active features per token; ``dead_share`` and ``dense_share`` are the shares of features that are never active, or
        active on more than `DENSE` of the tokens; ``usage_entropy`` is the entropy of the features' shares in all
        activations over log F: 1 if all are used equally often.
        """
        total = self._square - float(self._sum.square().sum()) / self.tokens
        fvu = self._residual / total if total > 0 else math.nan
        frequencies = self.frequencies
        low, median, high = (self._quantile(share) for share in (0.25, 0.5, 0.75))
        return {
            "explained_variance": 1 - fvu,
            "fvu": fvu,
            "cosine_similarity": self._cosine / self.tokens,
            "l0": float(self._active.sum()) / self.tokens,
            "l0_low": low,
            "l0_median": median,
            "l0_high": high,
            "dead_share": float((frequencies == 0).double().mean()),
            "dense_share": float((frequencies > DENSE).double().mean()),
            "usage_entropy": _evenness(frequencies),
            "features": len(frequencies),
            "width": len(self._sum),
            "tokens": self.tokens,
        }

    def histogram(self) -> dict[str, Any]:
        """How many features that are alive have which log10(frequency), in bins of `STEP` from `LOWEST` to 0.

        Rarer features are in the first bin; dead ones are not counted.
        """
        logs = self.frequencies[self._active > 0].log10()
        places = ((logs - LOWEST) / STEP).floor().long().clamp(0, BINS - 1)
        return {"lowest": LOWEST, "step": STEP, "counts": torch.bincount(places, minlength=BINS).tolist()}

    def _quantile(self, share: float) -> int:
        """The smallest L0 that at least this share of the tokens do not exceed."""
        return int((self._l0.cumsum(0) >= share * self.tokens).long().argmax())


def _evenness(frequencies: Tensor) -> float:
    """The entropy of shares proportional to ``frequencies``, over its maximum; NaN if no feature or one is there."""
    shares = frequencies / frequencies.sum()
    entropy = -float(torch.special.xlogy(shares, shares).sum())
    return entropy / math.log(len(shares)) if len(shares) > 1 else math.nan


@torch.no_grad()
def measure(sae: Any, rows: Tensor | Iterable[Tensor], chunk: int | None = None) -> dict[str, Any]:
    """`Reconstruction` of rows (n, D), or of a stream of them.

    An SAE with a large expansion has 50,000 codes per row, so the default chunk depends on their number.
    """
    found: Reconstruction | None = None
    chunk = chunk or max(1, min(8192, MOST_CODES // sae.W_dec.shape[0]))
    for some in [rows] if isinstance(rows, Tensor) else rows:
        found = found or Reconstruction(sae.W_dec.shape[0], some.shape[1], some.device)
        for part in some.split(chunk):
            codes = sae.encode(part)
            found.update(part, codes, sae.decode(codes))
    assert found is not None, "there are rows"
    return found.result()


def finite(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Measurements as JSON holds them: None for what is undefined."""
    undefined = {name for name, value in measured.items() if isinstance(value, float) and not math.isfinite(value)}
    return {name: None if name in undefined else value for name, value in measured.items()}


def faults(measured: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with an SAE whose measurements are worse than those of no SAE at all."""
    explained = measured["explained_variance"]
    if explained is not None and not explained >= 0:
        yield (
            f"explained variance {explained:.2f} is below 0: this SAE does not reconstruct these residuals; check the "
            "layer, the model, the preprocessing and the normalisation that it was trained with"
        )
