"""Batched float32 matrix products on CPUs by oneDNN, where PyTorch would take MKL's.

MKL does not use AVX-512 on non-Intel processors, and oneDNN, which is also part of PyTorch, is twice as fast there. For
float32 operands, `torch.bmm` and `torch.matmul` take oneDNN's products only where bfloat16 is allowed inside them
(`torch.backends.mkldnn.matmul.fp32_precision`). oneDNN makes use of that permission on processors with AMX; on others it
computes in float32. `exact` finds out what this processor does, and `onednn_products` gives the permission only there.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import torch

_MATMUL: Any = getattr(torch.backends.mkldnn, "matmul", None)
ALLOWED = "bf16"
INHERITED = "none"  # products then follow torch.backends.mkldnn.fp32_precision, whose value they show
LARGEST_ERROR = 1e-4  # of sums of some 100 products of normal numbers; float32 errs by 2e-5, bfloat16 by .1
SHAPES = ((6, 101, 32, 101), (6, 101, 101, 32), (2, 197, 64, 197), (1, 33, 64, 5))


_lock = threading.Lock()
_inside: list[str] = []  # the setting to restore, once for each block that is open


@contextlib.contextmanager
def onednn_products() -> Iterator[None]:
    """Inside the block, batched float32 products on the CPU are oneDNN's, if `exact`.

    The setting is the process's. Blocks may overlap, as those of several threads do: the last one to end restores it.
    """
    if not exact():
        yield
        return
    with _permission():
        yield


@functools.lru_cache(maxsize=1)
def exact() -> bool:
    """Whether this processor has AVX-512 and computes float32 products in float32 although bfloat16 is allowed."""
    if not hasattr(_MATMUL, "fp32_precision") or not torch.backends.mkldnn.is_available():
        return False
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or amx():
        return False
    generator = torch.Generator().manual_seed(0)
    with _permission(), torch.no_grad(), torch.autocast("cpu", enabled=False):
        return all(_error(generator, *shape) < LARGEST_ERROR for shape in SHAPES)


@contextlib.contextmanager
def _permission() -> Iterator[None]:
    with _lock:
        own = _MATMUL.fp32_precision
        if not _inside and own == torch.backends.mkldnn.fp32_precision:
            own = INHERITED
        _inside.append(_inside[0] if _inside else own)
        _MATMUL.fp32_precision = ALLOWED
    try:
        yield
    finally:
        with _lock:
            before = _inside.pop()
            if not _inside:
                _MATMUL.fp32_precision = before


def _error(generator: torch.Generator, groups: int, rows: int, inner: int, columns: int) -> float:
    """The largest error of a product of random matrices, with the second one transposed in memory or not."""
    own: Any = {"generator": generator, "dtype": torch.float32, "device": "cpu"}
    x = torch.randn(groups, rows, inner, **own)
    found = 0.0
    straight = torch.randn(groups, inner, columns, **own)
    for y in (straight, straight.mT.contiguous().mT):
        found = max(found, float((torch.bmm(x, y) - torch.bmm(x.double(), y.double())).abs().max()))
    return found
