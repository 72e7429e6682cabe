"""Muon whose matrices of one shape share their products.

torch.optim.Muon orthogonalises one matrix at a time. The default model has 24 matrices in four shapes, each so small that
calling an operation takes as long as the operation. Stacked, the matrices of a shape take less than half the time, and the
updates are the same: byte for byte on an AMD EPYC (Zen 5).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Muon, _muon

_adjusted = getattr(_muon, "_adjust_lr", None)  # PyTorch's scale of updates for the shape of a matrix


def stackable(device: torch.device) -> bool:
    """Whether `StackedMuon` can take the place of PyTorch's Muon: on a CPU whose bfloat16 products are oneDNN's."""
    supported = getattr(getattr(torch.ops, "mkldnn", None), "_is_mkldnn_bf16_supported", None)
    private = _adjusted is not None and hasattr(Muon, "_init_group")
    return device.type == "cpu" and private and supported is not None and bool(supported())


class StackedMuon(Muon):
    """PyTorch's Muon with its arguments and its state; only the step is different."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the matrices (M, N), float32, by their gradients; returns the loss of the closure, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params: list[Tensor] = []
            grads: list[Tensor] = []
            averages: list[Tensor] = []
            self._init_group(group, params, grads, averages)
            alike: dict[torch.Size, list[int]] = {}
            for index, param in enumerate(params):
                alike.setdefault(param.shape, []).append(index)
            for indices in alike.values():
                own, new, mean = ([tensors[index] for index in indices] for tensors in (params, grads, averages))
                _update(own, new, mean, group)
        return loss


def _update(params: list[Tensor], grads: list[Tensor], averages: list[Tensor], group: dict[str, Any]) -> None:
    """One step of matrices of the same shape, in the order of operations of torch.optim.Muon."""
    assert _adjusted is not None
    momentum, rate = group["momentum"], float(group["lr"])
    torch._foreach_lerp_(averages, grads, 1 - momentum)
    updates = torch._foreach_lerp(grads, averages, momentum) if group["nesterov"] else averages
    found = newton_schulz(torch.stack(list(updates)), group["ns_coefficients"], group["ns_steps"], group["eps"])
    scale = _adjusted(rate, group["adjust_lr_fn"], params[0].shape)
    for param, update in zip(params, found.unbind(), strict=True):
        param.mul_(1 - rate * group["weight_decay"])
        param.add_(update, alpha=-scale)


def newton_schulz(grads: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Nearest semi-orthogonal matrices, roughly: bfloat16 in the shape of ``grads`` (n, M, N) (Jordan et al. 2024, Muon).

    Args:
        coefficients: a, b, c of X <- a X + (b G + c G G) X with G = X X^T.
        steps: number of iterations.
        eps: smallest norm by which a gradient is divided.
    """
    a, b, c = coefficients
    x = grads.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    norms = torch.stack([matrix.norm() for matrix in x])
    x = x / norms.clamp(min=eps)[:, None, None]
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        update = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, update, x, beta=a)
    return x.mT if tall else x
