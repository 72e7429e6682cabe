"""Products by oneDNN are float32's, and the permission that selects them holds only where it changes no rounding."""

from __future__ import annotations

import pytest
import torch

from fgg.models import onednn_products as products
from fgg.models.capture import at_rest

known = pytest.mark.skipif(not hasattr(products._MATMUL, "fp32_precision"), reason="this PyTorch has no such setting")


@pytest.fixture(autouse=True)
def asked_anew():
    products.exact.cache_clear()
    yield
    products.exact.cache_clear()


@known
def test_the_setting_is_given_back():
    before = products._MATMUL.fp32_precision
    with pytest.raises(KeyError), products.onednn_products():
        assert (products._MATMUL.fp32_precision == products.ALLOWED) == products.exact()
        raise KeyError
    assert products._MATMUL.fp32_precision == before


@known
def test_overlapping_blocks_restore_the_setting():
    """As two threads do: the first to begin is the first to end."""
    before = products._MATMUL.fp32_precision
    first, second = products.onednn_products(), products.onednn_products()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert (products._MATMUL.fp32_precision == products.ALLOWED) == products.exact()
    second.__exit__(None, None, None)
    assert products._MATMUL.fp32_precision == before


@known
def test_an_inherited_setting_is_still_inherited():
    try:
        torch.backends.mkldnn.fp32_precision = "ieee"
        with products.onednn_products():
            pass
        torch.backends.mkldnn.fp32_precision = products.ALLOWED
        assert products._MATMUL.fp32_precision == products.ALLOWED
    finally:
        torch.backends.mkldnn.fp32_precision = products.INHERITED


@known
@pytest.mark.parametrize(
    "shape", [(48, 101, 32, 101), (48, 101, 101, 32), (3, 197, 64, 197), (1, 577, 577, 64), (7, 5, 3, 2)]
)
def test_products_are_rounded_as_float32(shape):
    groups, rows, inner, columns = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(groups, rows, inner, generator=generator)
    y = torch.randn(groups, inner, columns, generator=generator)
    exact = torch.bmm(x.double(), y.double())
    scale = torch.bmm(x.double().abs(), y.double().abs())
    with products.onednn_products():
        error = (torch.bmm(x, y) - exact).abs() / scale
    assert error.max() < inner * 2.0**-24


@known
@pytest.mark.parametrize("why", ["amx", "rounds", "avx2", "absent"])
def test_no_permission_where_it_could_change_numbers(why, monkeypatch):
    if why == "amx":
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    elif why == "rounds":
        monkeypatch.setattr(products, "_error", lambda *given: 0.03)
    elif why == "avx2":
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    else:
        monkeypatch.setattr(products, "_MATMUL", None)
    with products.onednn_products():
        assert torch.backends.mkldnn.matmul.fp32_precision != products.ALLOWED
    assert not products.exact()


@known
def test_bfloat16_inside_would_be_noticed():
    """The check's own error, with operands rounded as bfloat16 would round them."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 101, 32, generator=generator), torch.randn(6, 32, 101, generator=generator)
    rounded = torch.bmm(x.bfloat16().float(), y.bfloat16().float())
    assert (rounded - torch.bmm(x, y)).abs().max() > 100 * products.LARGEST_ERROR


def test_finding_out_draws_no_random_numbers():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    products.exact()
    assert torch.equal(torch.rand(3), wanted)


@known
def test_attribution_and_logits_stay_what_they_are(make_model, make_images, monkeypatch):
    """Gradients of attention too: its products in a graph are oneDNN's as well."""
    from fgg.attribution.attribute import attribute

    model = make_model(img_size=64, patch_size=8)
    images = make_images(model)
    fast = attribute(model, images)
    with torch.no_grad(), at_rest(model):
        logits = model(images)
    monkeypatch.setattr(products, "exact", lambda: False)
    plain = attribute(model, images)
    torch.testing.assert_close(fast.relevance, plain.relevance, atol=1e-6, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(logits, model(images), atol=1e-5, rtol=1e-5)
