"""Muon's iteration on processors without bfloat16 instructions.

torch.optim.Muon multiplies in bfloat16. Where the processor has no instructions for it, PyTorch emulates them: a product of
96 x 96 by 96 x 288 takes 3.8 ms instead of 0.15 ms in float32 (AMD EPYC without AVX-512), and training the default model
three times as long. Here such products are computed in float32 and rounded to bfloat16, which is what the instructions do.
Everywhere else, and where PyTorch's function has moved, nothing changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.optim import _muon

NAME = "_zeropower_via_newtonschulz"


def emulated(device: torch.device) -> bool:
    """Whether PyTorch emulates products in bfloat16 on this device."""
    supported = getattr(getattr(torch.ops, "mkldnn", None), "_is_mkldnn_bf16_supported", None)
    return device.type == "cpu" and supported is not None and not supported()


@contextlib.contextmanager
def fast_newton_schulz(device: torch.device) -> Iterator[None]:
    """Inside the block, Muon uses `newton_schulz` where its own products would be emulated."""
    theirs = getattr(_muon, NAME, None)
    if theirs is None or not emulated(device):
        yield
        return
    setattr(_muon, NAME, newton_schulz)
    try:
        yield
    finally:
        setattr(_muon, NAME, theirs)


def newton_schulz(grad: Tensor, ns_coefficients: tuple[float, float, float], ns_steps: int, eps: float) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: bfloat16, in the shape of the gradient (Jordan et al. 2024, Muon).

    Args:
        grad: (M, N).
        ns_coefficients: a, b, c of X <- a X + (b G + c G G) X with G = X X^T.
        ns_steps: number of iterations.
        eps: smallest norm by which the gradient is divided.
    """
    a, b, c = ns_coefficients
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # waiting for another thread takes longer than such a product, by far on a busy machine
    try:
        return _iterated(grad, a, b, c, ns_steps, eps)
    finally:
        torch.set_num_threads(threads)


def _iterated(grad: Tensor, a: float, b: float, c: float, ns_steps: int, eps: float) -> Tensor:
    tall = grad.size(0) > grad.size(1)
    x = _rounded(grad.T if tall else grad)
    x = _rounded(x / _rounded(x.norm()).clamp(min=eps))
    for _ in range(ns_steps):
        gram = _rounded(x @ x.T)
        update = _rounded(torch.addmm(gram, gram, gram, beta=b, alpha=c))
        x = _rounded(torch.addmm(x, update, x, beta=a))
    return (x.T if tall else x).bfloat16()


def _rounded(values: Tensor) -> Tensor:
    """Float32 values rounded to bfloat16."""
    return values.bfloat16().float()
