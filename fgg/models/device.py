"""Where and how the models run: device, arithmetic, threads, batch size."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch
from torch import nn

from fgg.errors import FggError

# Sums come out in another order with another number of threads, so it is fixed instead of following the
# machine: tables are then byte-identical whatever the number of cores. Several jobs run beside each other.
JOB_THREADS = 1
TRAINING_THREADS = 2
# Floats of activations per batch on a CPU: what stays in its cache. Measured for the default model: 980 perturbed
# images per second and core at 16 rows, 760 at 128.
CPU_BATCH_FLOATS = 2**21
GPU_SHARE = 0.3  # of its memory, for the activations of a batch


def resolve(device: str) -> torch.device:
    """The torch device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        FggError: ``cuda`` without a GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise FggError("device: cuda is asked for, but torch sees no GPU; set `device: auto` or `device: cpu`")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Run with fp32, tf32 or bf16 matrix products; the settings are put back afterwards."""
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def images_per_batch(model: nn.Module, wanted: int | None = None) -> int:
    """Images per attribution batch: the wanted number, or one that depends on the model alone.

    It must not follow the free memory of the moment: results differ in the last bits between batch sizes.
    """
    if wanted is not None:
        return wanted
    tokens = model.patch_embed.num_patches + model.num_prefix_tokens
    heads = getattr(getattr(model.blocks[0], "attn", model.blocks[0]), "num_heads", 16)
    per_image = len(model.blocks) * tokens * (8 * model.embed_dim + 3 * heads * tokens)
    return int(max(1, min(64, 2**27 // per_image)))


def rows_per_batch(model: nn.Module, device: torch.device) -> int:
    """Perturbed images per forward pass, without gradients: what a CPU's cache or a share of the GPU's memory holds.

    The GPU's whole memory counts, not what is free, so that a machine always takes the same batch.
    """
    tokens = model.patch_embed.num_patches + model.num_prefix_tokens
    per_row = tokens * 12 * model.embed_dim
    if device.type == "cuda":
        floats = int(torch.cuda.get_device_properties(device).total_memory * GPU_SHARE) // 4
    else:
        floats = CPU_BATCH_FLOATS
    return int(max(8, min(2048, floats // per_row)))


def halved(size: int, what: str) -> int:
    """Half of a batch size that was too large for the GPU, after saying so.

    Raises:
        FggError: it was 1 already.
    """
    if size <= 1:
        raise FggError("out of GPU memory with one image at a time; use a larger GPU, or set `device: cpu`")
    torch.cuda.empty_cache()
    print(f"out of GPU memory; going on with {size // 2} {what} instead of {size}", file=sys.stderr)
    return size // 2
