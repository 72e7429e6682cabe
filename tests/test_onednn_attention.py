"""Attention by oneDNN gives what the plain formula gives in float64, also where its shortcut without a maximum fails."""

from __future__ import annotations

import math

import pytest
import torch

from fgg.models import onednn_attention
from fgg.models.capture import at_rest
from fgg.models.onednn_attention import attention, suits

usable = pytest.mark.skipif(not onednn_attention._X86, reason="this processor takes PyTorch's attention")


def draw(images: int, heads: int, queries: int, keys: int, depth: int, width: int, scale: float = 1.0):
    generator = torch.Generator().manual_seed(images + heads + queries + keys + depth + width)
    shapes = (images, heads, queries, depth), (images, heads, keys, depth), (images, heads, keys, width)
    q, k, v = (torch.randn(shape, generator=generator) for shape in shapes)
    return q * scale, k, v


def slow(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The formula, in float64."""
    scores = q.double() @ k.double().transpose(2, 3) / math.sqrt(q.shape[-1])
    return (scores.softmax(-1) @ v.double()).transpose(1, 2).flatten(2)


@usable
@pytest.mark.parametrize(
    "shape",
    [
        (2, 3, 101, 101, 32, 32),
        (1, 12, 197, 197, 64, 64),
        (3, 2, 48, 17, 5, 7),
        (1, 1, 64, 2, 8, 1),
        (5, 4, 65, 50, 16, 24),
    ],
    ids=str,
)
def test_equals_the_formula(shape):
    q, k, v = draw(*shape)
    assert suits(q, k, v)
    torch.testing.assert_close(attention(q, k, v), slow(q, k, v).float(), atol=2e-6, rtol=1e-5)


@usable
@pytest.mark.parametrize("most", [1, 101 * 101, 2 * 101 * 101 + 5, 7 * 101 * 101], ids=str)
def test_parts_of_images_and_heads_are_put_together(most, monkeypatch):
    q, k, v = draw(4, 3, 101, 101, 16, 16)
    monkeypatch.setattr(onednn_attention, "MOST_SCORES", most)
    torch.testing.assert_close(attention(q, k, v), slow(q, k, v).float(), atol=2e-6, rtol=1e-5)


@usable
@pytest.mark.parametrize("scale", [1e2, 1e4, 1e10])
@pytest.mark.parametrize("shift", [0.0, -500.0, 500.0])
def test_scores_beyond_the_range_of_powers_are_no_trouble(scale, shift):
    q, k, v = draw(2, 2, 60, 60, 8, 8, scale)
    q[..., 0], k[..., 0] = math.sqrt(8) * shift, 1.0  # all scores of a row move by the shift
    got, wanted = attention(q, k, v), slow(q, k, v).float()
    scores = q.double() @ k.double().transpose(2, 3) / math.sqrt(8)
    atol = 1e-6 * scores.abs().max().item()  # what rounding of the scores themselves can do
    torch.testing.assert_close(got, wanted, atol=min(max(atol, 2e-6), 0.2) if scale < 1e4 else 10.0, rtol=1e-5)
    assert got.isfinite().all()
    assert (got.amax(1) <= v.transpose(1, 2).flatten(2).amax(1) + 1e-5).all()  # weights are at most 1 in sum


@usable
def test_what_is_not_finite_stays_so():
    q, k, v = draw(2, 2, 50, 50, 8, 8)
    q[0, 0, 3, 0] = torch.nan
    out = attention(q, k, v).view(2, 50, 2, 8)
    assert out[0, 3, 0].isnan().all()
    assert out[1].isfinite().all() and out[0, :, 1].isfinite().all()


@usable
def test_views_of_a_fused_projection_will_do():
    qkv = torch.randn(3, 70, 3 * 2 * 8, generator=torch.Generator().manual_seed(0))
    q, k, v = qkv.unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    torch.testing.assert_close(attention(q, k, v), slow(q, k, v).float(), atol=2e-6, rtol=1e-5)
    kept = qkv.clone()
    attention(q, k, v)
    assert torch.equal(qkv, kept)


def test_other_cases_take_the_attention_of_pytorch():
    q, k, v = draw(1, 2, 101, 101, 8, 8)
    assert not suits(q.double(), k.double(), v.double())
    assert not suits(q[:, :, :5], k, v)
    assert not suits(q[:0], k[:0], v[:0])
    assert not suits(q.clone().requires_grad_(), k, v)
    torch.testing.assert_close(attention(q.double(), k.double(), v.double()), slow(q, k, v))
    torch.testing.assert_close(attention(q[:, :, :5], k, v), slow(q[:, :, :5], k, v).float(), atol=2e-6, rtol=1e-5)
    asked = q.clone().requires_grad_()
    attention(asked, k, v).sum().backward()
    assert asked.grad is not None


def test_a_model_at_rest_has_the_same_logits(make_model, make_images, monkeypatch):
    model = make_model(img_size=64, patch_size=8)
    images = make_images(model)
    with torch.no_grad():
        wanted = model(images)
        with at_rest(model):
            torch.testing.assert_close(model(images), wanted, atol=1e-5, rtol=1e-4)
        monkeypatch.setattr(onednn_attention, "_X86", False)
        with at_rest(model):
            torch.testing.assert_close(model(images), wanted, atol=1e-5, rtol=1e-4)
