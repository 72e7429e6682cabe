"""Everything that is measured of an SAE on held-out images, in two passes over them and memory that does not grow."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.data.load import Split
from fgg.data.preprocess import Preprocess
from fgg.data.read_ahead import ReadAhead
from fgg.models.capture import at_rest
from fgg.models.device import images_per_batch
from fgg.models.vit import check_images
from fgg.progress import batches
from fgg.saes.downstream import downstream
from fgg.saes.measures import MOST_CODES, Reconstruction, finite
from fgg.saes.monosemanticity import ClassSelectivity, Monosemanticity
from fgg.saes.spatial import Spatial


def measure_held_out(
    model: VisionTransformer,
    preprocess: Preprocess,
    sae: Any,
    layer: int,
    split: Split,
    seed: int = 0,
    batch: int | None = None,
) -> dict[str, Any]:
    """The quality of an SAE of a layer, measured on the images of a split that it was not trained on.

    Args:
        sae: has ``encode``, ``decode`` and ``W_dec``, on the model's device.
        seed: of the shuffled labels against which class selectivity is held.
        batch: images in a pass of the model; None takes what suits the model.

    Returns:
        The measurements of `Reconstruction`, `Spatial`, `Monosemanticity`, `ClassSelectivity` and `downstream`, and
        ``frequency_histogram``; None for what is undefined.
    """
    device = next(model.parameters()).device
    features, grid = len(sae.W_dec), model.patch_embed.grid_size
    reconstruction = Reconstruction(features, model.embed_dim, device)
    spatial = Spatial(features, (int(grid[0]), int(grid[1])), device)
    selectivity = ClassSelectivity(features, split.labels, seed, device)
    monosemanticity: Monosemanticity | None = None
    at_once = max(1, MOST_CODES // (features * model.patch_embed.num_patches))
    ahead = ReadAhead(split, preprocess, device)
    for rows in batches(len(split), images_per_batch(model, batch), f"quality of layer {layer}"):
        images = ahead.batch(rows)
        residuals, embeddings = patches_and_embeddings(model, images, layer)
        pooled = []
        for part in residuals.split(at_once):
            with torch.no_grad():
                codes = sae.encode(part)
                again = sae.decode(codes)
            reconstruction.update(part.flatten(0, 1), codes.flatten(0, 1), again.flatten(0, 1))
            spatial.update(codes)
            pooled.append(codes.amax(1))
        activations = torch.cat(pooled)
        monosemanticity = monosemanticity or Monosemanticity(features, embeddings.shape[1], device)
        monosemanticity.update(activations, embeddings)
        selectivity.update(activations)
    assert monosemanticity is not None, "a split has images"
    found = reconstruction.result() | spatial.result() | monosemanticity.result() | selectivity.result()
    found |= downstream(model, preprocess, sae, layer, split, reconstruction.mean.float(), batch)
    return {**finite(found), "frequency_histogram": reconstruction.histogram()}


@torch.no_grad()
def patches_and_embeddings(model: VisionTransformer, images: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """The patches' residuals (B, N, D) at the end of a layer, and the images' embeddings (B, E).

    An embedding is the pooled, normed features that the head reads; if the head pools by itself, the mean of the patches.

    Args:
        images: normalised, (B, C, H, W).

    Raises:
        FggError: the images do not fit the model.
    """
    check_images(model, images)
    found: list[Tensor] = []
    handle = model.blocks[layer].register_forward_hook(lambda _module, _inputs, output: found.append(output))
    try:
        with at_rest(model):
            embeddings = model.forward_head(model.forward_features(images), pre_logits=True)
    finally:
        handle.remove()
    first = model.num_prefix_tokens
    pooled = embeddings[:, first:].mean(1) if embeddings.ndim == 3 else embeddings
    return found[0][:, first:].float(), pooled.float()
