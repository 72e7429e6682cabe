"""Pixel Flipping and SRG against Quantus, where that package is installed; the definitions are tested in any case."""

from __future__ import annotations

import numpy as np
import pytest
import quantus
import torch

import fgg

FILL = 0.3
TINY = {"img_size": 6, "patch_size": 1, "in_chans": 1, "embed_dim": 32, "depth": 3, "num_heads": 2}


@pytest.mark.parametrize("patches_per_step", [1, 4, 9, 12])
def test_curves_and_areas(patches_per_step):
    """With patches of one pixel in one channel, Quantus' pixels are patches."""
    torch.manual_seed(0)
    model = fgg.load_model("vit_tiny_patch16_224", kwargs=TINY, num_classes=4).eval()
    images, relevance = torch.randn(8, 1, 6, 6), torch.rand(8, 36)
    clean = model(images).softmax(-1).detach()
    target = clean.argmax(1)

    def curve(attribution):
        metric = quantus.PixelFlipping(
            features_in_step=patches_per_step, perturb_baseline=FILL, normalise=False, disable_warnings=True
        )
        maps = attribution.view(8, 1, 6, 6).numpy()
        found = metric(
            model=model, x_batch=images.numpy(), y_batch=target.numpy(), a_batch=maps, softmax=True, device="cpu"
        )
        return np.concatenate([clean.gather(1, target[:, None]).numpy(), np.array(found)], axis=1)

    mif, lif = curve(relevance), curve(1.5 - relevance)  # it refuses maps without a positive value
    settings = {"target": target, "patches_per_step": patches_per_step, "fill": FILL}
    found = fgg.pixel_flipping(model, images, relevance, **settings)
    np.testing.assert_allclose(found.curve, mif, atol=1e-5)
    np.testing.assert_allclose(found.auc, np.trapezoid(mif, axis=1) / (mif.shape[1] - 1), atol=1e-5)
    area = np.trapezoid(lif - mif, axis=1) / (mif.shape[1] - 1)
    np.testing.assert_allclose(fgg.srg(model, images, relevance, **settings), area, atol=1e-5)
