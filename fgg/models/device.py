"""Where and how the models run: device, arithmetic, threads, batch size."""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fgg.errors import FggError
from fgg.models import cards
from fgg.models.onednn_linear import bf16_products

# The number of threads changes the order of sums. It is fixed instead of following the machine, so that
# tables are byte-identical whatever the number of cores. Several jobs run side by side.
JOB_THREADS = 1
TRAINING_THREADS = 2
# Floats of activations per batch on a CPU, so that they stay in its cache. Measured for the default model: 980
# perturbed images per second and core at 16 rows, 760 at 128.
CPU_BATCH_FLOATS = 2**21
IMAGES, ROWS = "images per batch", "perturbed images per forward pass"  # what batches consist of
GPU_SHARE = 0.3  # share of the GPU's memory for the activations of a batch


def resolve(device: str) -> torch.device:
    """The torch device for ``auto``, ``cpu`` or ``cuda``; of several GPUs, one that this process keeps (`fgg.models.cards`).

    Raises:
        FggError: ``cuda`` without a GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise FggError("device: cuda is requested, but torch sees no GPU; set `device: auto` or `device: cpu`")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu" if device == "auto" else device)
    number = cards.choose()
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Run with fp32, tf32 or bf16 matrix products; the settings are restored afterwards.

    With bf16, a GPU runs under torch.autocast, and a CPU computes the products of the blocks' linear layers in bfloat16
    (`fgg.models.onednn_linear.bf16_products`).
    """
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        with _bf16(device) if precision == "bf16" else contextlib.nullcontext():
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _bf16(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    return bf16_products() if device.type == "cpu" else torch.autocast(device.type, torch.bfloat16)


def images_per_batch(model: nn.Module, wanted: int | None = None) -> int:
    """Images per attribution batch: the requested number, or one that depends only on the model.

    It must not depend on the memory that happens to be free: results differ in the last bits between batch sizes.
    """
    if wanted is not None:
        return wanted
    tokens = model.patch_embed.num_patches + model.num_prefix_tokens
    heads = getattr(getattr(model.blocks[0], "attn", model.blocks[0]), "num_heads", 16)
    per_image = len(model.blocks) * tokens * (8 * model.embed_dim + 3 * heads * tokens)
    return int(max(1, min(64, 2**27 // per_image)))


def rows_per_batch(model: nn.Module, device: torch.device) -> int:
    """Perturbed images per forward pass, without gradients: what fits a CPU's cache or a share of the GPU's memory.

    The GPU's total memory counts, not its free memory, so that a machine always uses the same batch size.
    """
    tokens = model.patch_embed.num_patches + model.num_prefix_tokens
    per_row = tokens * 12 * model.embed_dim
    if device.type == "cuda":
        floats = int(torch.cuda.get_device_properties(device).total_memory * GPU_SHARE) // 4
    else:
        floats = CPU_BATCH_FLOATS
    return int(max(8, min(2048, floats // per_row)))


_fitting: weakref.WeakKeyDictionary[nn.Module, dict[str, int]] = weakref.WeakKeyDictionary()


def fitting(size: int, what: str, model: nn.Module) -> int:
    """A batch size, or the smaller one that `halved` has found for this model."""
    return min(size, _fitting.get(model, {}).get(what, size))


def halved(size: int, what: str, model: nn.Module) -> int:
    """Halve a batch size that was too large for the GPU, say so, and remember it for `fitting`.

    Raises:
        FggError: the batch size is already 1.
    """
    if size <= 1:
        raise FggError("out of GPU memory with one image at a time; use a larger GPU, or set `device: cpu`")
    torch.cuda.empty_cache()
    print(f"out of GPU memory; continuing with {size // 2} {what} instead of {size}", file=sys.stderr)
    _fitting.setdefault(model, {})[what] = size // 2
    return size // 2
