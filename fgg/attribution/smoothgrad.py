"""SmoothGrad (Smilkov et al. 2017): the gradient, averaged over noisy copies of the image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.attribution.gradients import Logits, at_places, gradient
from fgg.attribution.registry import method
from fgg.errors import FggError
from fgg.randomness import generator


@method(
    title="SmoothGrad",
    citation="Smilkov et al. 2017, SmoothGrad: Removing Noise by Adding Noise (Euclidean norm of the mean gradient per patch)",
    forward_passes=1,
    backward_passes=1,
    repeats="samples",
    assumes="the gradient's rapid changes are noise; what remains after averaging is what the logit rests on",
)
def smoothgrad(
    model: VisionTransformer,
    images: Tensor,
    target: Tensor,
    gates: Mapping[int, Tensor],
    image_ids: Sequence[str],
    seed: int,
    samples: int = 25,
    noise: float = 0.15,
    layers: Sequence[int] | None = None,
) -> Tensor:
    """The Euclidean norm over each patch of the mean gradient of noisy copies: (B, N).

    Args:
        samples: number of noisy copies.
        noise: standard deviation of the noise, as a share of the range of each image's values.
        layers: blocks after which it is measured at the tokens, and added; None measures it at the pixels.

    Raises:
        FggError: no samples, or noise below 0.
    """
    if samples < 1 or noise < 0:
        raise FggError(f"smoothgrad: samples {samples} must be at least 1, and noise {noise} at least 0")

    def explain(logits: Logits, inputs: Tensor, layer: int | None) -> Tensor:
        total = torch.zeros_like(inputs)
        for noisy in copies(inputs, image_ids, seed, samples, noise, layer):
            total += gradient(logits, noisy, target)
        return (total / samples) ** 2

    return at_places(model, images, layers, gates, explain, root=True)


def copies(
    inputs: Tensor, image_ids: Sequence[str], seed: int, samples: int, noise: float, layer: int | None = None
) -> Iterator[Tensor]:
    """The inputs (B, …) with Gaussian noise, keyed by (seed, image_id, layer), once per sample."""
    if not len(inputs):
        return
    flat = inputs.flatten(1)
    spread = (noise * (flat.amax(1) - flat.amin(1))).view(-1, *[1] * (inputs.ndim - 1))
    draws = [generator(seed, "smoothgrad", name, "pixels" if layer is None else layer) for name in image_ids]
    for _ in range(samples):
        drawn = [draw.standard_normal(inputs.shape[1:], dtype=np.float32) for draw in draws]
        yield inputs + spread * torch.from_numpy(np.array(drawn, dtype=np.float32).reshape(inputs.shape)).to(inputs)
