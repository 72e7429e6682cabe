"""A straightforward implementation of the metrics: pixel masks in numpy, a batch per step, unfused attention.

It is the baseline of the benchmark and an independent check of the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from timm.models.vision_transformer import VisionTransformer

from fgg.attribution.gate import Gate


def probabilities(model: VisionTransformer, images: np.ndarray) -> np.ndarray:
    """Softmax of the model's logits for images (B, C, H, W)."""
    device = next(model.parameters()).device
    with torch.no_grad():
        return model(torch.from_numpy(images).to(device)).softmax(-1).cpu().numpy()


def logits(model: VisionTransformer, images: np.ndarray) -> np.ndarray:
    """Logits of images (B, C, H, W)."""
    device = next(model.parameters()).device
    with torch.no_grad():
        return model(torch.from_numpy(images).to(device)).cpu().numpy()


def filled(images: np.ndarray, patches: np.ndarray, side: int) -> np.ndarray:
    """A copy of images (B, C, H, W) with patches (B, k) of the given side filled with each image's mean."""
    out = images.copy()
    columns = images.shape[3] // side
    for image, own, mean in zip(out, patches, images.mean((1, 2, 3)), strict=True):
        for patch in own:
            row, column = divmod(int(patch), columns)
            image[:, row * side : (row + 1) * side, column * side : (column + 1) * side] = mean
    return out


def transmm(
    model: VisionTransformer, image: torch.Tensor, gate: Gate | None = None, saes: Mapping[int, Any] | None = None
) -> torch.Tensor:
    """TransMM of one image (1, C, H, W) for the predicted class, perhaps gated, with T x T matrices throughout: (N,).

    Args:
        saes: layer -> SAE, for every gated layer.
    """
    kept: list[torch.Tensor] = []
    residuals: dict[int, torch.Tensor] = {}
    prefix = model.num_prefix_tokens

    def keep(_module, _inputs, output):
        output.retain_grad()
        kept.append(output)

    handles = []
    for block in model.blocks:
        block.attn.fused_attn = False
        handles.append(block.attn.attn_drop.register_forward_hook(keep))
    for layer in () if gate is None else gate.layers:

        def keep_residual(_module, _inputs, output, layer=layer):
            output.retain_grad()
            residuals[layer] = output

        handles.append(model.blocks[layer].register_forward_hook(keep_residual))
    logits = model(image)
    for handle in handles:
        handle.remove()
    model.zero_grad()
    logits[0, logits[0].argmax()].backward()
    total = torch.eye(kept[0].shape[-1], device=image.device)
    for layer, attention in enumerate(kept):
        cam = (attention * attention.grad).clamp(min=0)[0].mean(0).detach()
        if gate is not None and saes is not None and layer in residuals:
            cam[:, prefix:] *= _gate(residuals[layer][0, prefix:], residuals[layer].grad[0, prefix:], gate, saes[layer])
        total = total + cam @ total
    return total[0, prefix:]


def _gate(residual: torch.Tensor, gradient: torch.Tensor, gate: Gate, sae: Any) -> torch.Tensor:
    """The gate of each patch (N,), from residual and gradient (N, D), with codes and feature gradients (N, F) formed."""
    residual = residual.detach()
    if gate.construction == "no_sae":
        score = (residual * gradient).sum(1)
    else:
        decoder = sae.W_dec
        if gate.shuffle_decoder:
            decoder = decoder[torch.randperm(len(decoder), generator=torch.Generator().manual_seed(gate.shuffle_seed))]
        codes, slopes = sae.encode(residual), gradient @ decoder.T
        parts = {"combined": codes * slopes, "activation_only": codes, "gradient_only": slopes}
        score = parts[gate.construction].sum(1)
    centred = score - score.median()
    return gate.clamp_max ** torch.tanh(gate.alpha * centred / (1.4826 * (centred.abs().median() + 1e-8)))


def all_metrics(
    model: VisionTransformer, images: np.ndarray, relevance: np.ndarray, subsets: np.ndarray, bins: int
) -> dict[str, np.ndarray]:
    """SaCo, Faithfulness Correlation and Pixel Flipping (corrected) of relevance (B, N), each (B,).

    Args:
        subsets: int64 (B, runs, k).
    """
    side = int(model.patch_embed.patch_size[0])
    for block in model.blocks:
        block.attn.fused_attn = False
    clean = probabilities(model, images)
    rows = np.arange(len(images))
    target = clean.argmax(1)
    order = np.argsort(-relevance, axis=1, kind="stable")

    curve = [clean[rows, target]]
    for step in range(1, relevance.shape[1] + 1):
        curve.append(probabilities(model, filled(images, order[:, :step], side))[rows, target])
    flipping = np.trapezoid(np.stack(curve, 1), axis=1) / (len(curve) - 1)

    groups = np.array_split(np.arange(relevance.shape[1]), bins)
    drops = np.stack(
        [
            clean[rows, target] - probabilities(model, filled(images, order[:, group], side))[rows, target]
            for group in groups
        ],
        1,
    )
    totals = np.stack([np.take_along_axis(relevance, order[:, group], 1).sum(1) for group in groups], 1)
    saco = np.zeros(len(images))
    for i in rows:
        pairs = [(a, b) for a in range(bins) for b in range(a + 1, bins)]
        weights = np.array([totals[i, a] - totals[i, b] for a, b in pairs])
        signs = np.array([np.sign(drops[i, a] - drops[i, b]) for a, b in pairs])
        saco[i] = (weights * signs).sum() / np.abs(weights).sum()

    before = logits(model, images)[rows, target]
    answers = np.stack(
        [
            before - logits(model, filled(images, subsets[:, run], side))[rows, target]
            for run in range(subsets.shape[1])
        ],
        1,
    )
    sums = np.take_along_axis(relevance, subsets.reshape(len(images), -1), 1).reshape(subsets.shape).sum(-1)
    correlation = np.array([spearmanr(a, b).statistic for a, b in zip(sums, answers, strict=True)])
    return {"saco": saco, "faithfulness_correlation": correlation, "pixel_flipping": flipping}
