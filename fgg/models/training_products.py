"""The matrix products of a linear layer in training, on CPUs: PyTorch's, oneDNN's, or oneDNN's in the order of PyTorch's sums.

PyTorch's own float32 products are MKL's, which does not use AVX-512 on non-Intel processors; oneDNN, which is also part of
PyTorch, is twice as fast there. A sum of float32 numbers depends on the order of its terms, so that oneDNN's products usually
have other last bits, and after some thousand steps the trained model is another one.

On AMD processors, MKL adds 192 terms one after the other, and then the sums of these runs; from 193 to 383 terms, there are two
runs of equal length. oneDNN adds some hundreds of terms one after the other. So its products of runs, added in MKL's order, are
MKL's products, bit for bit. No document promises either order: `like_pytorch` compares both for each shape, and takes PyTorch's
product where one bit differs. The weight must have the usual layout in memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fgg.models.onednn_products import exact, onednn_products

RUN = 192  # terms that MKL adds one after the other
MOST_FLOATS = 2**21  # of the products of all runs, which are formed at once if they fit a cache
FEWEST_TERMS = 2**20  # of a product that is tried; PyTorch forms smaller ones in some 20 µs

_OPERATORS = torch.ops.mkldnn if torch.backends.mkldnn.is_available() else None
# The operator that torch.compile calls for linear layers on a CPU; it has no gradient.
_PRODUCT = getattr(_OPERATORS, "_linear_pointwise", None)
# The same with a sum, which is added before the result is written.
_SUM = getattr(_PRODUCT, "binary", None)


@dataclass(frozen=True)
class Products:
    """The products of a linear layer Y = X W^T + b in training, with G the gradient of Y.

    Attributes:
        forward: X (..., I), W (O, I) and b (O,) or None to Y (..., O).
        of_input: G (..., O) and W to G W, the gradient (..., I) of X.
        of_weight: X (n, I) and G (n, O) to G^T X, the gradient (O, I) of W.
    """

    forward: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    of_input: Callable[[Tensor, Tensor], Tensor]
    of_weight: Callable[[Tensor, Tensor], Tensor]


def available() -> bool:
    """Whether PyTorch has oneDNN's product."""
    return _PRODUCT is not None


def like_pytorch(passed: int, rows: int, inputs: int, outputs: int, bias: bool, threads: int) -> Products:
    """The fastest products that have the same bytes as PyTorch's, for a linear layer.

    Args:
        passed: rows of X in a call of ``forward`` and of ``of_input``.
        rows: n of ``of_weight``.
        inputs: I.
        outputs: O.
        bias: whether there is one.
        threads: PyTorch's number of threads where the products are formed.
    """
    if _SUM is None or passed * inputs * outputs < FEWEST_TERMS or not exact():
        return PYTORCH
    return _tried(passed, rows, inputs, outputs, bias, threads)


@functools.lru_cache(maxsize=256)
def _tried(passed: int, rows: int, inputs: int, outputs: int, bias: bool, threads: int) -> Products:
    """Those of `ORDERED` whose results for random numbers are `PYTORCH`'s, bit for bit, and of `PYTORCH` the others."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)

    weight, x, g = drawn(outputs, inputs), drawn(rows, inputs), drawn(rows, outputs)
    arguments = {
        "forward": (x[:passed], weight, drawn(outputs) if bias else None),
        "of_input": (g[:passed], weight),
        "of_weight": (x, g),
    }
    chosen, before = {}, torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            for name, given in arguments.items():
                own, other = getattr(ORDERED, name), getattr(PYTORCH, name)
                chosen[name] = own if torch.equal(own(*given), other(*given)) else other
    finally:
        torch.set_num_threads(before)
    return Products(**chosen)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X W^T + b by oneDNN, which copies X unless its rows are contiguous, and takes W with any strides."""
    assert _PRODUCT is not None
    return _PRODUCT(x, weight, bias, "none", [], "")


def runs(terms: int) -> list[slice]:
    """The terms of a sum that MKL adds one after the other, before it adds the sums of these runs."""
    length = (terms + 1) // 2 if RUN < terms < 2 * RUN else RUN
    return [slice(start, min(start + length, terms)) for start in range(0, terms, length)]


def _in_runs(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    first, *others = runs(x.shape[-1])
    if not others:
        return product(x, weight, bias)
    assert _SUM is not None
    total = product(x[..., first], _dense(weight[:, first]))
    for run in others:
        total = _SUM(x[..., run], total, _dense(weight[:, run]), None, "add")
    return total if bias is None else total.add_(bias)


def _dense(weight: Tensor) -> Tensor:
    """A matrix without gaps in memory, as it is or transposed; for others, oneDNN's kernel orders its sums in another way."""
    return weight if weight.t().is_contiguous() else weight.contiguous()


def _of_weight_in_runs(rows: Tensor, gradient: Tensor) -> Tensor:
    if gradient.shape[1] > rows.shape[1]:  # the first operand, which is transposed in memory, is the smaller one
        return _of_weight_in_runs(gradient, rows).t().contiguous()
    # For operands with gaps in memory, such as the class tokens of all images, oneDNN orders its sums in another way.
    rows, gradient = rows.contiguous(), gradient.contiguous()
    first, *others = runs(len(rows))
    alike = 1 + sum(run.stop - run.start == first.stop for run in others)  # all but a shorter one at the end
    if alike * gradient.shape[1] * rows.shape[1] > MOST_FLOATS:
        return _in_runs(gradient.t(), rows.t())
    together = alike * first.stop
    x, g = (each[:together].unflatten(0, (alike, first.stop)) for each in (rows, gradient))
    with onednn_products():
        total, *parts = torch.bmm(g.mT, x).unbind()
    for part in parts:
        total.add_(part)
    if together < len(rows):
        total.add_(product(gradient[together:].t(), rows[together:].t()))
    return total


def _of_weight_by_onednn(rows: Tensor, gradient: Tensor) -> Tensor:
    if gradient.shape[1] > rows.shape[1]:  # as in `_of_weight_in_runs`
        return product(rows.t(), gradient.t()).t()
    return product(gradient.t(), rows.t())


PYTORCH = Products(
    functional.linear,
    lambda gradient, weight: functional.linear(gradient, weight.t()),
    lambda rows, gradient: gradient.t().mm(rows),
)
ONEDNN = Products(product, lambda gradient, weight: product(gradient, weight.t()), _of_weight_by_onednn)
ORDERED = Products(_in_runs, lambda gradient, weight: _in_runs(gradient, weight.t()), _of_weight_in_runs)
