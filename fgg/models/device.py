"""Where and how the models run: device, arithmetic, threads, batch size."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from fgg.errors import FggError

# Sums come out in another order with another number of threads, so it is fixed instead of following the
# machine: tables are then byte-identical whatever the number of cores. Several jobs run beside each other.
JOB_THREADS = 1
TRAINING_THREADS = 2
# Floats of activations per batch on a CPU: about what stays in its cache.
CPU_BATCH_FLOATS = 2**23


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
    """Perturbed images per forward pass, without gradients."""
    tokens = model.patch_embed.num_patches + model.num_prefix_tokens
    per_row = tokens * 12 * model.embed_dim
    budget = CPU_BATCH_FLOATS if device.type == "cpu" else 2**31
    return int(max(8, min(2048, budget // per_row)))
