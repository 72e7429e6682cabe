"""A GPU that runs out of memory: the batch is halved, it is said, and the numbers stay."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from fgg.attribution import attribute as attribution
from fgg.errors import FggError
from fgg.perturbation.engine import Perturber


@pytest.fixture
def model() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=3).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_perturbed_rows_are_halved_until_they_fit(model, images, capsys):
    masks = torch.rand(6, 20, 16, generator=torch.Generator().manual_seed(2)) < 0.5
    expected = Perturber(model, images).logits(masks)
    engine = Perturber(model, images, rows=40)
    forward = engine._tokens.forward

    def small(chosen, part, *_fixed):
        if part.shape[0] * part.shape[1] > 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(chosen, part)

    engine._tokens.forward = small
    torch.testing.assert_close(engine.logits(masks), expected, rtol=0, atol=1e-6)
    assert engine.rows == 5
    assert "continuing with 5 perturbed images per forward pass instead of 10" in capsys.readouterr().err


def test_attribution_batches_are_halved_until_they_fit(model, images, monkeypatch, capsys):
    expected = attribution.attribute(model, images).relevance
    real = attribution.attribute_several

    def small(model, images, *rest):
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, images, *rest)

    monkeypatch.setattr(attribution, "attribute_several", small)
    found = attribution.attribute(model, images, batch_size=6)
    torch.testing.assert_close(found.relevance, expected, rtol=0, atol=1e-6)
    assert "continuing with 1 images per batch instead of 3" in capsys.readouterr().err


def test_one_image_that_does_not_fit_is_an_error(model, images, monkeypatch):
    def never(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(attribution, "attribute_several", never)
    with pytest.raises(FggError, match="out of GPU memory with one image at a time"):
        attribution.attribute(model, images)
