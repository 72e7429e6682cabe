"""bfloat16 on a CPU: which parts are rounded, and which are not."""

from __future__ import annotations

import pytest
import torch

from fgg.models.capture import at_rest
from fgg.models.device import arithmetic
from fgg.models.onednn_linear import bf16_products, linear
from fgg.perturbation.engine import Perturber

CPU = torch.device("cpu")


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("gelu", [True, False])
def test_a_product_is_that_of_rounded_numbers(gelu):
    x, weight, bias = draw(5, 64), draw(32, 64), draw(32)
    wanted = torch.nn.functional.linear(x.bfloat16().double(), weight.bfloat16().double(), bias.bfloat16().double())
    wanted = torch.nn.functional.gelu(wanted) if gelu else wanted
    with bf16_products():
        got = linear(x, weight, bias, gelu, low=True)
        assert linear(x, weight, bias, gelu, low=True, keep=True).dtype == torch.bfloat16
        assert torch.equal(linear(x, weight, bias, gelu), reference(x, weight, bias, gelu))  # not asked for
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, wanted.float(), atol=1e-5, rtol=2.0**-8)
    assert torch.equal(linear(x, weight, bias, gelu, low=True), reference(x, weight, bias, gelu))  # the block has ended


def reference(x, weight, bias, gelu):
    return linear(x, weight, bias, gelu, low=False)


def test_a_weight_that_changes_inside_the_block_is_seen():
    x, weight = draw(4, 8), draw(3, 8)
    with bf16_products():
        before = linear(x, weight, low=True)
        weight.mul_(2)
        assert torch.equal(linear(x, weight, low=True), 2 * before)


def test_gradients_are_float32():
    x, weight = draw(4, 8).requires_grad_(), draw(3, 8)
    with bf16_products():
        linear(x, weight, low=True).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(4, 8))


def test_blocks_are_rounded_and_the_head_is_not(make_model, make_images):
    model = make_model()
    images = make_images(model)
    seen: dict[str, torch.Tensor] = {}
    handles = [
        model.blocks[-1].register_forward_hook(lambda _m, _i, out: seen.__setitem__("residual", out)),
        model.norm.register_forward_hook(lambda _m, _i, out: seen.__setitem__("norm", out)),
        model.head.register_forward_hook(lambda _m, i, out: seen.update(head_in=i[0], head=out)),
    ]
    with torch.no_grad(), at_rest(model), arithmetic("bf16", CPU):
        model(images)
    for handle in handles:
        handle.remove()
    assert all(values.dtype == torch.float32 for values in seen.values())
    # A stream or a logit that went through bfloat16 would have no bits below its first eight.
    for name in ("residual", "norm", "head"):
        assert not torch.equal(seen[name], seen[name].bfloat16().float()), name
    torch.testing.assert_close(
        seen["head"], torch.nn.functional.linear(seen["head_in"], model.head.weight, model.head.bias)
    )


def test_the_engine_changes_by_little_but_changes(make_model, make_images):
    model = make_model()
    images = make_images(model)
    engine = Perturber(model, images)
    masks = torch.rand(len(images), 6, engine.patches, generator=torch.Generator().manual_seed(0)) < 0.5
    exact = engine.logits(masks)
    with arithmetic("bf16", CPU):
        rounded = engine.logits(masks, engine.mean)
        again = engine.logits(masks, engine.mean)
    assert torch.equal(rounded, again)
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, atol=0.03 * exact.std().item(), rtol=0.02)
    assert torch.equal(engine.logits(masks), exact)
