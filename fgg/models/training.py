"""Training a small Vision Transformer from scratch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

from fgg.errors import FggError
from fgg.models.architectures import FIXED_PATCHES
from fgg.models.halves import side_by_side
from fgg.models.newton_schulz import fast_newton_schulz
from fgg.models.onednn_training import fast_training
from fgg.models.stacked_muon import StackedMuon, stackable
from fgg.models.vit import grid_size, load_model
from fgg.progress import progress

FINAL_LEARNING_RATE = 0.01  # share of the peak
CLIP_NORM = 1.0
LONGEST_WAVE = 10_000.0  # patches, over 2 pi
SINES = 0.5  # amplitude


def train(
    architecture: str,
    kwargs: Mapping[str, Any],
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    settings: Mapping[str, Any],
    seed: int,
) -> tuple[VisionTransformer, list[dict[str, float]]]:
    """Train on standardised images (n, C, H, W) with labels int64 (n,), on their device.

    The optimiser is AdamW, or Muon (Jordan et al. 2024) for the blocks' matrices, with warm-up and cosine decay.
    Position embeddings start as sines and cosines (Beyer et al. 2022, Better plain ViT baselines), so that the model
    need not learn from a small training set which patches are neighbours. Patches are dropped in training (as in FLIP,
    Li et al. 2023), which regularises and saves time; the last ``full_epochs`` use all of them, as the explained model
    will.

    Args:
        settings: the ``model.train`` block of the configuration.
        seed: determines initialisation, order of images, augmentation and dropout.

    Returns:
        The model in eval mode, and per epoch its ``loss``, ``accuracy`` (on the augmented images) and
        ``learning_rate``.

    Raises:
        FggError: training diverged, or there are fewer images than one batch.
    """
    batch = min(settings["batch_size"], len(images))
    if not batch:
        raise FggError("the training split has no images")
    generator = torch.Generator().manual_seed(seed)
    seen, onednn = len(images) // batch * batch * settings["epochs"], settings.get("onednn", False)
    with (
        _seeded(generator, images.device),
        fast_newton_schulz(images.device),
        progress([], seen, "training") as bar,
    ):
        options = _dropping(architecture, kwargs, settings)
        model = load_model(architecture, options, num_classes=num_classes)
        dropping = getattr(model, "patch_drop", None)
        if hasattr(dropping, "num_prefix_tokens"):  # timm would drop the distillation token, too
            dropping.num_prefix_tokens = model.num_prefix_tokens
        start_from_sines(model)
        model = model.to(images.device).train()
        optimisers = make_optimisers(model, settings)
        per_epoch = len(images) // batch
        total = per_epoch * settings["epochs"]
        warmup = max(1, round(settings["warmup"] * total))
        schedules = [
            torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate(step, total, warmup))
            for optimiser in optimisers
        ]
        history = []
        # Without dropout: the model that `load_model` will build.
        plain = load_model(architecture, kwargs, num_classes=num_classes)
        for epoch in range(settings["epochs"]):
            if epoch >= settings["epochs"] - settings["full_epochs"] and hasattr(dropping, "prob"):
                dropping.prob = 0.0
            order = torch.randperm(len(images), generator=generator)[: per_epoch * batch].to(images.device)
            loss_sum, correct = 0.0, 0
            with side_by_side(model, batch, onednn), fast_training(model, onednn):
                for index in order.split(batch):
                    logits = model(augment(images[index], settings, generator))
                    loss = functional.cross_entropy(logits, labels[index], label_smoothing=settings["label_smoothing"])
                    model.zero_grad(set_to_none=True)
                    loss.backward()
                    nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
                    for optimiser, schedule in zip(optimisers, schedules, strict=True):
                        optimiser.step()
                        schedule.step()
                    loss_sum += loss.item()
                    correct += int((logits.argmax(-1) == labels[index]).sum())
                    bar.update(len(index))
            if not math.isfinite(loss_sum):
                raise FggError(
                    f"training diverged in epoch {epoch + 1} (loss {loss_sum}); lower model.train.learning_rate"
                )
            history.append(
                {
                    "epoch": epoch + 1,
                    "loss": loss_sum / per_epoch,
                    "accuracy": correct / (per_epoch * batch),
                    "learning_rate": schedules[0].get_last_lr()[0],
                }
            )
    plain.load_state_dict(model.state_dict())
    plain = plain.to(images.device)
    with torch.no_grad():
        if not plain(images[:batch]).isfinite().all():  # caused by the last step, which no loss shows
            raise FggError("training diverged in its last step; lower model.train.learning_rate")
    return plain, history


def _dropping(architecture: str, kwargs: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Timm's arguments with the dropout of paths and patches; with relative biases, timm leaves no patch out."""
    with torch.random.fork_rng(devices=[]):  # the model that is trained is drawn as if this one did not exist
        shape = load_model(architecture, kwargs)
    found = {"drop_path_rate": settings["drop_path"], **kwargs}
    if not isinstance(shape, FIXED_PATCHES):
        return {"patch_drop_rate": settings["patch_drop"], **found}
    if settings["patch_drop"]:
        print(f"note: model.train.patch_drop: a {type(shape).__name__} needs all patches, so none is dropped")
    return found


def start_from_sines(model: VisionTransformer) -> None:
    """Set the learnable position embeddings of the patches to two-dimensional sines and cosines.

    Models without position embeddings, or whose width is not divisible by 4, are left unchanged.
    """
    if getattr(model, "pos_embed", None) is None or model.embed_dim % 4:
        return
    height, width = grid_size(model)
    quarter = model.embed_dim // 4
    frequencies = LONGEST_WAVE ** -(torch.arange(quarter) / max(1, quarter - 1))
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (columns, rows)]
    waves = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    with torch.no_grad():
        # Prefix tokens keep timm's position embeddings, if they have any.
        model.pos_embed[:, -height * width :] = SINES * waves


def augment(images: Tensor, settings: Mapping[str, Any], generator: torch.Generator) -> Tensor:
    """Flips, shifts with repeated edges, and contrast changes of a batch (B, C, H, W), drawn for each image."""
    batch, _, height, width = images.shape
    device = images.device

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(device)

    if settings["flips"]:
        images = torch.where(draw(batch, 1, 1, 1) < 0.5, transforms.horizontal_flip(images), images)
        images = torch.where(draw(batch, 1, 1, 1) < 0.5, transforms.vertical_flip(images), images)
    if settings["shift"]:
        most = settings["shift"]
        places = (draw(2, batch) * (2 * most + 1)).long().T.tolist()
        padded = transforms.pad(images, [most], padding_mode="edge")
        shifted = (
            transforms.crop(image, top, left, height, width) for image, (top, left) in zip(padded, places, strict=True)
        )
        images = torch.stack(list(shifted))
    if settings["contrast"]:
        images = images * (1 + settings["contrast"] * (2 * draw(batch, 1, 1, 1) - 1))
    return images


def rate(step: int, total: int, warmup: int) -> float:
    """Share of the peak learning rate at a step: linear warm-up, cosine decay."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def make_optimisers(model: nn.Module, settings: Mapping[str, Any]) -> list[torch.optim.Optimizer]:
    """AdamW for everything; with ``muon_learning_rate``, Muon for the matrices of the blocks and AdamW for the rest."""
    decay, muon = settings["weight_decay"], settings.get("muon_learning_rate")
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2] if muon else []
    rest = parameter_groups(model, decay, without=matrices)
    optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=settings["learning_rate"])]
    if matrices:
        # Updates as large as AdamW's, whatever the shape of the matrix (Liu et al. 2025, Muon is Scalable).
        kind = StackedMuon if stackable(matrices[0].device) else torch.optim.Muon
        optimisers.append(kind(matrices, lr=muon, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    return optimisers


def parameter_groups(
    model: nn.Module, weight_decay: float, without: Sequence[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels only: not on biases, norms, tokens and position embeddings."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    left_out = {id(parameter) for parameter in without}
    for name, parameter in model.named_parameters():
        if id(parameter) in left_out:
            continue
        is_token = name in ("cls_token", "reg_token", "pos_embed")
        (kept if parameter.ndim <= 1 or is_token else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]


@contextlib.contextmanager
def _seeded(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Seed torch's global generator, which timm's initialisation and dropout draw from, and restore it."""
    seed = int(torch.randint(0, 2**62, (1,), generator=generator))
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def predict(model: VisionTransformer, images: Tensor, batch: int = 64) -> Tensor:
    """Predicted classes int64 (n,) of standardised images (n, C, H, W)."""
    return torch.cat([model(part).argmax(-1) for part in images.split(batch)])
