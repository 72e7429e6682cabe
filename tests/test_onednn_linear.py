"""Linear layers by oneDNN give what PyTorch's own do, with gradients, and the model is left as it came."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from fgg.models import onednn_linear
from fgg.models.capture import at_rest
from fgg.models.fast_products import fast_products
from fgg.models.onednn_linear import linear

SHAPES = [((5, 7), 3), ((2, 9, 16), 33), ((1, 1, 24), 72), ((3, 4, 5, 6), 1)]


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


@pytest.mark.parametrize(("shape", "out"), SHAPES)
@pytest.mark.parametrize("biased", [True, False])
def test_the_product_is_the_same(shape, out, biased):
    x, weight, bias = draw(*shape), draw(out, shape[-1]), draw(out) if biased else None
    wanted = functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    torch.testing.assert_close(linear(x, weight, bias), wanted.float(), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        got = linear(x, weight, bias, gelu=True)
    torch.testing.assert_close(got, functional.gelu(wanted).float(), atol=1e-5, rtol=1e-5)


def test_parts_of_a_weight_and_rows_of_a_batch_will_do():
    x, weight = draw(4, 6, 16), draw(48, 16)
    torch.testing.assert_close(linear(x[:, :1], weight[16:32]), functional.linear(x[:, :1], weight[16:32]))
    torch.testing.assert_close(linear(x.transpose(0, 1), weight), functional.linear(x.transpose(0, 1), weight))


@pytest.mark.parametrize("gelu", [True, False])
def test_the_gradient_for_x_is_the_same(gelu):
    weight, bias, weights = draw(7, 5), draw(7), draw(2, 3, 7)
    gradients = []
    for own in (True, False):
        x = draw(2, 3, 5).requires_grad_()
        y = linear(x, weight, bias, gelu) if own else functional.linear(x, weight, bias)
        (functional.gelu(y) if gelu and not own else y).backward(weights)
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_stay_as_they_are(dtype):
    x, weight = draw(3, 8, dtype=dtype), draw(4, 8, dtype=dtype)
    assert torch.equal(linear(x, weight), functional.linear(x, weight))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(draw(3, 8), draw(4, 8)).dtype == torch.bfloat16


def test_without_onednn_everything_works(monkeypatch, make_model, make_images):
    model = make_model()
    images = make_images(model)
    with at_rest(model), torch.inference_mode():
        fast = model(images)
        monkeypatch.setattr(onednn_linear, "_PRODUCT", None)
        with fast_products(model):
            torch.testing.assert_close(model(images), fast, atol=1e-5, rtol=1e-5)
        assert torch.equal(linear(draw(2, 3), draw(4, 3)), functional.linear(draw(2, 3), draw(4, 3)))


def test_a_model_is_faster_inside_only_and_left_as_it_came(model, images):
    if onednn_linear._PRODUCT is None:
        pytest.skip("this PyTorch has no oneDNN")

    def changed():
        return [name for name, module in model.named_modules() if "forward" in vars(module)]

    with torch.inference_mode():
        before = model(images)
        with pytest.raises(KeyError), fast_products(model):
            inside, names = model(images), changed()
            raise KeyError
        after = model(images)
    assert any(name.endswith("qkv") for name in names) and changed() == []
    torch.testing.assert_close(inside, before, atol=1e-4, rtol=1e-5)
    assert torch.equal(after, before)


def test_an_mlp_is_joined_only_where_nobody_looks_between(make_model, make_images):
    """A hook inside the MLP still sees its input; a GELU by another formula stays that formula."""
    if onednn_linear._PRODUCT is None:
        pytest.skip("this PyTorch has no oneDNN")
    model, seen = make_model(), []
    model.blocks[1].mlp.act = nn.GELU(approximate="tanh")
    model.blocks[2].mlp.act.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape))
    images = make_images(model)
    with torch.inference_mode(), fast_products(model):
        joined = ["forward" in vars(block.mlp) for block in model.blocks]
        inside = model(images)
    assert joined == [True, False, False, True] and len(seen) == 1
    with torch.inference_mode():
        torch.testing.assert_close(inside, model(images), atol=1e-5, rtol=1e-5)


def test_a_forward_that_somebody_has_set_is_kept(make_model, make_images):
    model = make_model()
    layer = model.blocks[0].attn.proj
    layer.forward = own = lambda x: torch.zeros_like(x)
    with fast_products(model):
        assert layer.forward is own
    assert layer.forward is own


def test_a_sum_inside_a_product_is_the_sum_after_it():
    x, weight, bias, other = draw(3, 7, 8), draw(5, 8), draw(5), draw(3, 7, 5)
    for own in (bias, None):
        torch.testing.assert_close(linear(x, weight, own, plus=other), linear(x, weight, own) + other)
    with torch.enable_grad():
        asked = x.clone().requires_grad_()
        linear(asked, weight, bias, plus=other).sum().backward()
    torch.testing.assert_close(asked.grad, weight.sum(0).expand_as(x))


@pytest.mark.parametrize(
    "place", ["attn", "attn.proj", "attn.attn_drop", "mlp", "mlp.fc1", "norm1", "norm2", "drop_path1"]
)
def test_a_block_is_joined_only_where_nobody_looks_between(make_model, make_images, place):
    model, seen = make_model(), []
    model.blocks[1].get_submodule(place).register_forward_hook(lambda *_given: seen.append(place))
    images = make_images(model)
    with torch.inference_mode():
        wanted = model(images)
        calls = len(seen)
        with fast_products(model):
            if place == "attn.attn_drop":
                model.blocks[1].attn.fused_attn = False
            inside = model(images)
    torch.testing.assert_close(inside, wanted, atol=1e-5, rtol=1e-5)
    assert len(seen) == calls + 1 if place != "attn.attn_drop" else len(seen) == 1


def test_a_block_with_layer_scale_is_not_joined(make_model, make_images):
    model = make_model(init_values=0.1)
    images = make_images(model)
    with torch.inference_mode():
        wanted = model(images)
        with fast_products(model):
            torch.testing.assert_close(model(images), wanted, atol=1e-5, rtol=1e-5)
