"""Linear layers with faster products in training: results and gradients are PyTorch's, and the model leaves as it came."""

import contextlib

import pytest
import torch
from torch import nn
from torch.nn import functional

from fgg.models import training, training_products
from fgg.models.onednn_training import fast_training, linear
from fgg.models.training import train
from fgg.models.vit import load_model

ARCHITECTURE = "vit_tiny_patch16_224"
KWARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "mlp_ratio": 2}
SHAPES = [(5, 7, 3), (33, 16, 48), (17, 48, 16), (1, 9, 4), (1632, 96, 288)]  # rows, inputs, outputs


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradients(function, x, weight, bias, g):
    """Result and gradients of X, W and b (None without bias)."""
    leaves = [None if each is None else each.clone().requires_grad_() for each in (x, weight, bias)]
    y = function(*leaves)
    y.backward(g)
    return [y.detach(), *(each.grad for each in leaves if each is not None)]


def check_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).norm() <= 1e-6 * other.norm()


@pytest.mark.parametrize("rows, inputs, outputs", SHAPES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_gradients_are_those_of_double_precision(rows, inputs, outputs, with_bias):
    x, weight = drawn(2, rows, inputs), drawn(outputs, inputs, seed=1)
    bias, g = drawn(outputs, seed=2) if with_bias else None, drawn(2, rows, outputs, seed=3)
    exact = [None if each is None else each.double() for each in (x, weight, bias)]
    expected = gradients(functional.linear, *exact, g.double())
    found = gradients(linear, x, weight, bias, g)
    assert all(each.dtype == torch.float32 for each in found)
    check_close([each.double() for each in found], expected)


def test_any_layout_of_input_and_gradient():
    x, g = drawn(4, 6, 10), drawn(4, 6, 5, seed=1)
    weight, bias = drawn(5, 10, seed=2), drawn(5, seed=3)
    expected = gradients(linear, x, weight, bias, g)
    strided = (each.permute(2, 1, 0).contiguous().permute(2, 1, 0) for each in (x, g))
    swapped, swapped_g = strided
    assert not swapped.is_contiguous() and not swapped_g.is_contiguous()
    check_close(gradients(linear, swapped, weight, bias, swapped_g), expected)
    check_close(gradients(linear, x, weight, bias, torch.ones(()).expand(4, 6, 5)),
                gradients(functional.linear, x, weight, bias, torch.ones(4, 6, 5)))  # fmt: skip


@pytest.mark.parametrize("frozen", ["x", "weight", "bias"])
def test_what_needs_no_gradient_gets_none(frozen):
    leaves = {"x": drawn(3, 4), "weight": drawn(2, 4, seed=1), "bias": drawn(2, seed=2)}
    for name, leaf in leaves.items():
        leaf.requires_grad_(name != frozen)
    linear(**leaves).sum().backward()
    assert {name for name, leaf in leaves.items() if leaf.grad is None} == {frozen}


@pytest.mark.parametrize("case", ["double", "bfloat16", "vector", "empty", "autocast", "without the operator"])
def test_other_cases_are_pytorchs_own(case, monkeypatch):
    def unexpected(*arguments):
        raise AssertionError("oneDNN's product was used")

    monkeypatch.setattr(training_products, "_PRODUCT", None if case == "without the operator" else unexpected)
    dtype = {"double": torch.float64, "bfloat16": torch.bfloat16}.get(case, torch.float32)
    x = drawn(*{"vector": (4,), "empty": (0, 4)}.get(case, (3, 4)), dtype=dtype)
    weight, bias = drawn(2, 4, seed=1, dtype=dtype), drawn(2, seed=2, dtype=dtype)
    g = torch.ones(*x.shape[:-1], 2)
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        expected = gradients(functional.linear, x, weight, bias, g.bfloat16() if case == "autocast" else g.to(dtype))
        found = gradients(linear, x, weight, bias, g.bfloat16() if case == "autocast" else g.to(dtype))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def steps(model, context):
    """Gradients of all parameters for one batch in training mode."""
    torch.manual_seed(0)
    model.zero_grad()
    with context:
        loss = functional.cross_entropy(model(drawn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 0]))
        loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.skipif(training_products._PRODUCT is None, reason="PyTorch without oneDNN")
def test_a_models_gradients(monkeypatch):
    model = load_model(ARCHITECTURE, {**KWARGS, "patch_drop_rate": 0.5}, num_classes=3).train()
    expected = steps(model, torch.enable_grad())
    calls = []
    product = training_products._PRODUCT
    monkeypatch.setattr(training_products, "_PRODUCT", lambda *each: calls.append(each[0].shape) or product(*each))
    found = steps(model, fast_training(model, True))
    layers = sum(type(module) is nn.Linear for module in model.modules())
    assert len(calls) == 3 * layers
    assert found.keys() == expected.keys()
    largest = max(each.norm() for each in expected.values())
    for name, gradient in found.items():  # the bias of the keys changes no softmax: its gradient is rounding alone
        assert (gradient - expected[name]).norm() <= 1e-5 * expected[name].norm() + 1e-6 * largest, name


@pytest.mark.parametrize("threads", [1, 2])
def test_without_onednn_the_gradients_have_pytorchs_bytes(threads, monkeypatch):
    monkeypatch.setattr(training_products, "FEWEST_TERMS", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = load_model(ARCHITECTURE, {**KWARGS, "patch_drop_rate": 0.5}, num_classes=3).train()
        expected, found = (steps(model, context) for context in (torch.enable_grad(), fast_training(model, False)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_head_of_many_classes_that_reads_class_tokens_has_pytorchs_bytes():
    torch.manual_seed(0)
    model = load_model(ARCHITECTURE, {"img_size": 32, "depth": 1}, num_classes=100).train()
    x, labels = drawn(512, 3, 32, 32), torch.arange(512) % 100
    found = []
    for context in (contextlib.nullcontext(), fast_training(model, False)):
        model.zero_grad()
        with context:
            functional.cross_entropy(model(x), labels).backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_weight_with_another_layout_keeps_pytorchs_products(monkeypatch):
    monkeypatch.setattr(training_products, "FEWEST_TERMS", 1)
    layer, x, g = nn.Linear(500, 10), drawn(40, 500), drawn(40, 10, seed=1)
    layer.weight.data = layer.weight.data.t().contiguous().t()
    found = []
    for context in (contextlib.nullcontext(), fast_training(layer, False)):
        layer.zero_grad()
        with context:
            layer(x).backward(g)
        found.append(layer.weight.grad.clone())
    assert torch.equal(*found)


def test_the_model_and_the_filling_of_memory_are_as_before():
    model = load_model(ARCHITECTURE, KWARGS, num_classes=3)
    replaced = model.blocks[0].mlp.fc1
    replaced.forward = own = lambda x: functional.linear(x, replaced.weight, replaced.bias)
    before = {name: vars(module).get("forward") for name, module in model.named_modules()}
    filled = torch.utils.deterministic.fill_uninitialized_memory
    with pytest.raises(KeyError), fast_training(model, True):
        assert replaced.forward is own and "forward" in vars(model.head)
        assert not torch.utils.deterministic.fill_uninitialized_memory
        raise KeyError
    assert {name: vars(module).get("forward") for name, module in model.named_modules()} == before
    assert torch.utils.deterministic.fill_uninitialized_memory == filled


@pytest.mark.skipif(training_products._PRODUCT is None, reason="PyTorch without oneDNN")
def test_training_uses_it_and_repeats_its_bytes(pictures, defaults, monkeypatch):
    images, labels = pictures("train")
    settings = {**defaults["model"]["train"], "epochs": 2, "muon_learning_rate": 0.003, "onednn": True}
    inside = []
    monkeypatch.setattr(
        training, "fast_training", lambda model, onednn: inside.append(onednn) or fast_training(model, onednn)
    )
    trained = [train(ARCHITECTURE, KWARGS, images, labels, 3, settings, 0) for _ in range(2)]
    (one, history), (other, again) = trained
    assert inside == [True] * 4 and history == again
    states = one.state_dict(), other.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    plain, _ = train(ARCHITECTURE, KWARGS, images, labels, 3, {**settings, "onednn": False}, 0)
    assert inside[-1] is False
    torch.testing.assert_close(plain.head.weight, one.head.weight, atol=1e-2, rtol=1e-2)
