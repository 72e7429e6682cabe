"""Products of linear layers in training: oneDNN's are right, and those that replace PyTorch's have its bytes."""

import math

import pytest
import torch

from fgg.models import training_products
from fgg.models.onednn_products import exact
from fgg.models.training_products import ONEDNN, ORDERED, PYTORCH, Products, available, like_pytorch, runs

SHAPES = [(1, 1, 1), (33, 16, 48), (192, 193, 7), (200, 288, 96), (385, 96, 288), (816, 400, 10), (1632, 96, 192)]
NAMES = ("forward", "of_input", "of_weight")

needs_onednn = pytest.mark.skipif(not available(), reason="PyTorch without oneDNN")
needs_order = pytest.mark.skipif(
    not (available() and exact()), reason="oneDNN's exact products need AVX-512 without AMX"
)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Each test tries the products anew, however small they are."""
    training_products._tried.cache_clear()
    monkeypatch.setattr(training_products, "FEWEST_TERMS", 1)
    yield
    training_products._tried.cache_clear()


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def arguments(rows, inputs, outputs, bias=True, seed=5):
    x, g, weight = (
        drawn(rows, inputs, seed=seed),
        drawn(rows, outputs, seed=seed + 1),
        drawn(outputs, inputs, seed=seed + 2),
    )
    return {
        "forward": (x, weight, drawn(outputs, seed=seed + 3) if bias else None),
        "of_input": (g, weight),
        "of_weight": (x, g),
    }


def one_by_one(x, weight, total=None):
    """X W^T in float32, a term after the other, each with one rounding: in double precision, the products are exact."""
    total = torch.zeros(len(x), len(weight)) if total is None else total
    for term in range(x.shape[1]):
        total = (x[:, term, None].double() * weight[:, term].double() + total.double()).float()
    return total


@needs_onednn
@pytest.mark.parametrize("rows, inputs, outputs", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("products", [ONEDNN, ORDERED], ids=["onednn", "ordered"])
def test_they_are_those_of_double_precision(rows, inputs, outputs, bias, products, monkeypatch):
    for most in (training_products.MOST_FLOATS, 1):  # the gradient of the weight at once, or run by run
        monkeypatch.setattr(training_products, "MOST_FLOATS", most)
        for name, given in arguments(rows, inputs, outputs, bias).items():
            found = getattr(products, name)(*given)
            expected = getattr(PYTORCH, name)(*(None if each is None else each.double() for each in given))
            assert found.dtype == torch.float32 and found.shape == expected.shape
            assert (found - expected).norm() <= 2e-6 * expected.norm(), name


@pytest.mark.parametrize("terms", [1, 191, 192, 193, 194, 300, 382, 383, 384, 385, 500, 576, 1616, 3232])
def test_runs_are_all_terms_once(terms):
    found = runs(terms)
    assert [term for run in found for term in range(terms)[run]] == list(range(terms))
    lengths = [run.stop - run.start for run in found]
    assert max(lengths) <= 192 and len(lengths) == math.ceil(terms / 192)
    if 192 < terms < 384:
        assert lengths[0] - lengths[1] in (0, 1)
    else:
        assert set(lengths[:-1]) <= {192}


@needs_order
@pytest.mark.parametrize("terms", [96, 192, 194, 288, 384, 500, 800])
def test_ordered_sums_are_those_of_the_runs(terms):
    """Each run's terms one after the other, then the sums of the runs; as AMD processors with AVX-512 do."""
    x, weight = drawn(200, terms), drawn(96, terms, seed=1)
    if like_pytorch(200, 200, terms, 96, False, 1).forward is not ORDERED.forward:
        pytest.skip("on this processor, MKL or oneDNN orders sums in another way")
    first, *others = (one_by_one(x[:, run], weight[:, run]) for run in runs(terms))
    expected = first
    for other in others:
        expected = expected + other
    for layout in (weight, weight.t().contiguous().t()):
        assert torch.equal(ORDERED.forward(x, layout, None), expected)
        assert torch.equal(ORDERED.of_input(x, layout.t()), expected)
    assert torch.equal(ORDERED.of_weight(weight.t().contiguous(), x.t().contiguous()), expected)


@pytest.mark.parametrize("rows, inputs, outputs", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_chosen_has_pytorchs_bytes(rows, inputs, outputs, bias, threads):
    before = torch.get_num_threads()
    chosen = like_pytorch(rows, rows, inputs, outputs, bias, threads)
    assert torch.get_num_threads() == before
    torch.set_num_threads(threads)
    try:
        for name, given in arguments(rows, inputs, outputs, bias).items():
            assert torch.equal(getattr(chosen, name)(*given), getattr(PYTORCH, name)(*given)), name
    finally:
        torch.set_num_threads(before)


def laid_out(x, layout):
    """The same numbers with gaps between rows, with gaps in rows, transposed in memory, or rows that share their memory."""
    if layout == "gaps between rows":
        return torch.stack([x, x], 1)[:, 0]
    if layout == "gaps in rows":
        return torch.stack([x, x], 2)[..., 0]
    return x.t().contiguous().t() if layout == "transposed" else x[:1].expand_as(x)


@pytest.mark.parametrize("layout", ["gaps between rows", "gaps in rows", "transposed", "expanded"])
@pytest.mark.parametrize("rows, inputs, outputs", [(520, 192, 576), (520, 96, 288), (520, 768, 192), (512, 192, 100)])
@pytest.mark.parametrize("which", ["x", "g", "both"])
def test_other_layouts_of_input_and_gradient_have_pytorchs_bytes(rows, inputs, outputs, layout, which):
    given = arguments(rows, inputs, outputs)
    (x, weight, bias), g = given["forward"], given["of_input"][0]
    x, g = (laid_out(each, layout) if which in (name, "both") else each for name, each in (("x", x), ("g", g)))
    chosen = like_pytorch(rows, rows, inputs, outputs, True, torch.get_num_threads())
    for name, own in {"forward": (x, weight, bias), "of_input": (g, weight), "of_weight": (x, g)}.items():
        found, expected = (getattr(products, name)(*own) for products in (chosen, PYTORCH))
        assert torch.equal(found, expected) and found.is_contiguous(), name


@needs_order
@pytest.mark.parametrize("other", NAMES)
def test_a_product_that_differs_in_one_bit_is_not_chosen(other, monkeypatch):
    def off(*given):
        found = getattr(PYTORCH, other)(*given).clone()
        found[-1, -1] = torch.nextafter(found[-1, -1], torch.tensor(math.inf))
        return found

    same = {name: lambda *given, name=name: getattr(PYTORCH, name)(*given) for name in NAMES}
    monkeypatch.setattr(training_products, "ORDERED", Products(**{**same, other: off}))
    chosen = like_pytorch(64, 128, 32, 48, True, 1)
    assert {name for name in NAMES if getattr(chosen, name) is getattr(PYTORCH, name)} == {other}


@pytest.mark.parametrize("case", ["small", "without the operator", "inexact"])
def test_where_it_is_not_tried(case, monkeypatch):
    monkeypatch.setattr(training_products, "ORDERED", None)  # which a trial would read
    if case == "small":
        monkeypatch.setattr(training_products, "FEWEST_TERMS", 10**9)
    if case == "without the operator":
        monkeypatch.setattr(training_products, "_SUM", None)
    if case == "inexact":
        monkeypatch.setattr(training_products, "exact", lambda: False)
    assert like_pytorch(64, 64, 32, 48, True, 1) is PYTORCH


def test_the_trial_draws_from_no_global_state():
    before = torch.get_rng_state()
    like_pytorch(64, 64, 32, 48, True, 1)
    assert torch.equal(torch.get_rng_state(), before)
