"""The same work by other libraries, where they are installed: captum, pytorch-grad-cam and Quantus.

Each function returns pairs of calls, ours and theirs, that compute the same numbers for the same images (the tests compare
them). Quantus perturbs features of any shape one by one; `quantus_masks` gives it the patches as features.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fgg
from fgg.models.vit import patch_size

Pair = tuple[Callable[[], Any], Callable[[], Any]]
STEPS = 8  # of integrated gradients


def installed(name: str) -> bool:
    """Whether a library can be imported."""
    return importlib.util.find_spec(name) is not None


def pairs(model: Any, images: Tensor, relevance: Tensor) -> dict[str, Pair]:
    """Name -> (ours, theirs) for every library that is installed.

    Args:
        images: float (B, C, H, W).
        relevance: (B, N).
    """
    found: dict[str, Pair] = {}
    target = model(images).argmax(-1).detach()
    if installed("captum"):
        found |= _captum(model, images, target)
    if installed("pytorch_grad_cam"):
        found["pytorch-grad-cam GradCAM"] = _grad_cam(model, images, target)
    if installed("quantus"):
        found |= _quantus(model, images, relevance, target)
    return found


def _captum(model: Any, images: Tensor, target: Tensor) -> dict[str, Pair]:
    from captum.attr import InputXGradient, IntegratedGradients

    own = {"target": target}
    return {
        "captum InputXGradient": (
            lambda: fgg.attribute(model, images, "input_x_gradient", **own),
            lambda: InputXGradient(model).attribute(images.clone().requires_grad_(), target=target),
        ),
        "captum IntegratedGradients": (
            lambda: fgg.attribute(model, images, "integrated_gradients", steps=STEPS, **own),
            lambda: IntegratedGradients(model).attribute(images, target=target, n_steps=STEPS),
        ),
    }


def _grad_cam(model: Any, images: Tensor, target: Tensor) -> Pair:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    rows, columns = model.patch_embed.grid_size

    def to_grid(tokens: Tensor) -> Tensor:
        return tokens[:, model.num_prefix_tokens :].unflatten(1, (rows, columns)).permute(0, 3, 1, 2)

    targets = [ClassifierOutputTarget(int(each)) for each in target]

    def theirs() -> Any:
        with GradCAM(model, [model.blocks[-1].norm1], reshape_transform=to_grid) as cam:
            return cam(images, targets=targets)

    return lambda: fgg.attribute(model, images, "gradcam_norm1", target=target), theirs


def _quantus(model: Any, images: Tensor, relevance: Tensor, target: Tensor) -> dict[str, Pair]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import quantus

    batch, patches = relevance.shape
    height, width = patch_size(model)
    side = int(patches**0.5)
    per_patch = height * width
    pixels = relevance.view(batch, 1, side, side).repeat_interleave(height, 2).repeat_interleave(width, 3)
    maps = pixels.cpu().numpy()
    x, y = images.cpu().numpy(), target.cpu().numpy()
    runs, size = 60, 20
    shared = {"x_batch": x, "y_batch": y, "a_batch": maps, "softmax": True, "device": str(images.device)}

    def flipping() -> Any:
        # Pixels of a patch have one value and so follow each other: a step of one patch is a step of as many features.
        metric = quantus.PixelFlipping(
            features_in_step=per_patch, perturb_baseline=0.0, normalise=False, disable_warnings=True
        )
        return metric(model=model, **shared)

    def correlation() -> Any:
        metric = quantus.FaithfulnessCorrelation(
            nr_runs=runs, subset_size=size * per_patch, perturb_baseline=0.0, normalise=False,
            return_aggregate=False, disable_warnings=True,
        )  # fmt: skip
        return metric(model=model, **shared)

    names = [str(number) for number in range(batch)]
    subsets = torch.from_numpy(fgg.draw_subsets(names, patches, 1, runs, size, 0)[:, 0])
    zero = {"fill": 0.0, "target": target}
    return {
        "Quantus PixelFlipping": (lambda: fgg.pixel_flipping(model, images, relevance, **zero), flipping),
        "Quantus FaithfulnessCorrelation": (
            lambda: fgg.faithfulness_correlation(model, images, relevance, subsets=subsets, **zero),
            correlation,
        ),
    }


def as_numpy(values: Any) -> np.ndarray:
    """Numbers of a result as an array."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
