"""Integrated Gradients (Sundararajan et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.attribution.gradients import Logits, at_places, gradient
from fgg.attribution.registry import method
from fgg.errors import FggError
from fgg.models.capture import Captured


@method(
    title="Integrated Gradients",
    citation="Sundararajan et al. 2017, Axiomatic Attribution for Deep Networks",
    forward_passes=2,
    backward_passes=1,
    repeats="steps",
    assumes="the baseline stands for nothing, and the straight path to the image means something",
)
def integrated_gradients(
    model: VisionTransformer,
    images: Tensor,
    target: Tensor,
    captured: Captured,
    gates: Mapping[int, Tensor],
    steps: int = 32,
    baseline: float = 0.0,
    layers: Sequence[int] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Input minus baseline, times the mean gradient on the straight path between them: (B, N).

    The integral is computed by Gauss-Legendre quadrature. The column ``completeness_residual`` (B,) is what the
    attributions lack to the difference of the logits at image and baseline; with several layers, the sum.

    Args:
        steps: points of the quadrature.
        baseline: value of the baseline in the units of the model's input; 0 is the mean of standardised images. At
            tokens, the value of every component.
        layers: blocks after which relevance is measured at the tokens, and added; None measures it at the pixels.

    Raises:
        FggError: no steps.
    """
    if steps < 1:
        raise FggError(f"integrated_gradients: steps {steps} must be at least 1")
    places, weights = np.polynomial.legendre.leggauss(steps)
    residuals: list[Tensor] = []

    def explain(logits: Logits, inputs: Tensor, _layer: int | None) -> Tensor:
        start = torch.full_like(inputs, baseline)
        total = torch.zeros_like(inputs)
        for place, weight in zip(((places + 1) / 2).tolist(), (weights / 2).tolist(), strict=True):
            total += weight * gradient(logits, start + place * (inputs - start), target)
        found = (inputs - start) * total
        with torch.no_grad():
            nothing = logits(start)
        gained = (captured.logits - nothing.float()).gather(1, target[:, None])[:, 0]
        residuals.append(gained - found.flatten(1).sum(1))
        return found

    relevance = at_places(model, images, layers, gates, explain)
    return relevance, {"completeness_residual": torch.stack(residuals).sum(0)}
