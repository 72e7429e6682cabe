"""Load timm Vision Transformers, and the few facts about them that the methods need."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.layers import PatchEmbed
from timm.models import create_model, is_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.errors import FggError
from fgg.models.checkpoints import first_line, names, read

# Hints for tensors that do not fit: the kind of fault, a pattern of the name, what to do.
MISSING, UNEXPECTED, SHAPE = "missing", "unexpected", "wrong shape"
HINTS = (
    (UNEXPECTED, r"fc_norm\.", "the file's model pools the patches: set model.kwargs.global_pool to avg"),
    (MISSING, r"fc_norm\.", "the file's model reads the class token: set model.kwargs.global_pool to token"),
    (UNEXPECTED, r"norm_pre\.", "the file's model has a norm before its blocks: set model.kwargs.pre_norm to true"),
    (UNEXPECTED, r"blocks\.\d+\.ls\d\.", "the file's model scales its layers: set model.kwargs.init_values to 1.0e-5"),
    (UNEXPECTED, r"blocks\.\d+\.attn\.[qk]_norm", "the file's model normalises queries and keys: set model.kwargs.qk_norm to true"),
    (UNEXPECTED, r"reg_token", "the file's model has registers: set model.kwargs.reg_tokens to their number"),
    (UNEXPECTED, r"blocks\.\d+\.\w+\.", "the file has different or more blocks: see model.kwargs.depth"),
    (UNEXPECTED, r"head\.(projection|text)", "these are the weights of a zero-shot model: read its folder with fgg.models.model_files.load"),
    (UNEXPECTED, r"vision_model\.", "these are the names of Hugging Face's transformers: use open_clip's file, or timm's"),
    (MISSING, r"head\.", "a file without a head has no classes: fine-tune it first, or set model.zero_shot for a CLIP tower"),
    (SHAPE, r"pos_embed", "position embeddings are not resized: set model.kwargs.img_size and patch_size as in training"),
    (SHAPE, r"patch_embed\.", "see model.kwargs.patch_size, in_chans and embed_dim"),
    (SHAPE, r"head\.", "the number of classes is different"),
)  # fmt: skip


def load_model(
    architecture: str,
    kwargs: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    num_classes: int | None = None,
) -> VisionTransformer:
    """Build a timm VisionTransformer in eval mode, float32, on the CPU.

    Args:
        architecture: any timm VisionTransformer name, such as ``vit_base_patch16_224``.
        kwargs: overrides for timm, such as ``img_size``, ``patch_size``, ``embed_dim``, ``depth``.
        weights: None for random weights, ``pretrained`` for timm's hub, or the path of a checkpoint in any format
            that `fgg.models.checkpoints` reads.
        num_classes: outputs of the head; None keeps timm's number.

    Raises:
        FggError: the architecture is unknown, kwargs are wrong, the file is missing or damaged, or tensors do not fit
            (the message names them).
    """
    if not is_model(architecture):
        raise FggError(f"model.architecture: timm has no model {architecture!r}; see timm.list_models('vit_*')")
    options = dict(kwargs or {})
    if num_classes is not None:
        options["num_classes"] = num_classes
    pretrained = weights == "pretrained"
    try:
        model = create_model(architecture, pretrained=pretrained, **options)
    except (OSError, RuntimeError) as error:
        if pretrained:
            raise FggError(
                f"model.weights: the pretrained weights of {architecture!r} cannot be fetched ({first_line(error)}); "
                "check the network, or give the path of a file"
            ) from None
        raise FggError(_unbuildable(architecture, options, error)) from None
    except (TypeError, AssertionError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise FggError(_unbuildable(architecture, options, error)) from None
    if type(model) is not VisionTransformer and isinstance(model, VisionTransformer):
        # Such as distilled models, whose head reads two tokens.
        raise FggError(f"model.architecture: {architecture!r} is a {type(model).__name__}, whose head is not supported")
    if not isinstance(model, VisionTransformer):
        raise FggError(f"model.architecture: {architecture!r} is a {type(model).__name__}, not a VisionTransformer")
    if weights is not None and not pretrained:
        fill(model, read(weights), weights)
    return model.eval()


def _unbuildable(architecture: str, options: Mapping[str, Any], error: Exception) -> str:
    return f"model.kwargs: timm cannot build {architecture!r} with {dict(options)}: {first_line(error)}"


def fill(model: torch.nn.Module, state: dict[str, Tensor], origin: str | Path) -> None:
    """Load a state dict.

    Raises:
        FggError: tensors are missing, unexpected or of the wrong shape; the message names them, with hints.
    """
    own = model.state_dict()
    faults = {
        MISSING: [name for name in own if name not in state],
        UNEXPECTED: [name for name in state if name not in own],
        SHAPE: [name for name in own if name in state and own[name].shape != state[name].shape],
    }
    if any(faults.values()):
        shapes = [f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}" for name in faults[SHAPE]]
        told = [f"{kind}: {names(shapes if kind == SHAPE else found)}" for kind, found in faults.items() if found]
        hints = [f" ({hint})" for kind, pattern, hint in HINTS if any(re.match(pattern, name) for name in faults[kind])]
        raise FggError(
            f"model.weights: {origin} does not fit the architecture; {'; '.join(told)}. "
            f"Check model.architecture, model.kwargs and the number of classes{''.join(hints)}"
        )
    model.load_state_dict(state)


def num_patches(model: VisionTransformer) -> int:
    """N for the model's own input size."""
    height, width = grid_size(model)
    return height * width


def grid_size(model: VisionTransformer) -> tuple[int, int]:
    """Rows and columns of patches for the model's own input size."""
    height, width = model.patch_embed.grid_size
    return int(height), int(width)


def patch_size(model: VisionTransformer) -> tuple[int, int]:
    """Height and width of a patch in pixels; for a hybrid, of the part of the image that one token stands for."""
    if type(model.patch_embed) is PatchEmbed:
        height, width = model.patch_embed.patch_size
        return int(height), int(width)
    (height, width), (rows, columns) = model.patch_embed.img_size, model.patch_embed.grid_size
    return int(height) // int(rows), int(width) // int(columns)


def at_patches(model: VisionTransformer, tokens: Tensor) -> Tensor:
    """The patches' part of values per token, without the prefix tokens at the start: (B, T, …) to (B, N, …)."""
    return tokens[:, model.num_prefix_tokens :]


def patches_of(model: VisionTransformer, images: Tensor) -> int:
    """N for these images, whose size may differ from the model's own."""
    height, width = patch_size(model)
    return (images.shape[2] // height) * (images.shape[3] // width)


def reads_class_token(model: VisionTransformer) -> bool:
    """Whether the head reads the class token (otherwise it pools the patches)."""
    return model.cls_token is not None and model.global_pool == "token" and model.attn_pool is None


def readout(model: VisionTransformer, like: Tensor) -> Tensor:
    """The row of the identity that the head reads: the class token's, or the mean of the patches'.

    Args:
        like: (B, T, …), gives the row its batch, tokens, dtype and device.

    Returns:
        (B, T).
    """
    batch, tokens = like.shape[:2]
    row = like.new_zeros(batch, tokens)
    if reads_class_token(model):
        row[:, 0] = 1
    else:
        patches = tokens - model.num_prefix_tokens
        row[:, model.num_prefix_tokens :] = 1 / patches
    return row


def check_images(model: VisionTransformer, images: Tensor) -> None:
    """Raise FggError unless the model is a VisionTransformer and the images are a batch (B, C, H, W) that it takes."""
    if not isinstance(model, VisionTransformer):
        raise FggError(
            f"the model is a {type(model).__name__}; fgg explains timm's VisionTransformers, see fgg.load_model"
        )
    if not isinstance(images, Tensor):
        raise FggError(
            f"images must be a float tensor (B, C, H, W), not a {type(images).__name__}; see torch.from_numpy"
        )
    # In a hybrid, the projection follows a backbone and says nothing about the images.
    channels = model.patch_embed.proj.in_channels if type(model.patch_embed) is PatchEmbed else None
    if images.ndim != 4 or not images.is_floating_point():
        raise FggError(f"images must be a float tensor (B, C, H, W), not {images.dtype} {tuple(images.shape)}")
    own = next(model.parameters()).dtype
    if images.dtype != own and not torch.is_autocast_enabled(images.device.type):
        raise FggError(f"images are {images.dtype}, but the model is {own}; convert them with images.to({own})")
    if channels is not None and images.shape[1] != channels:
        raise FggError(
            f"images have {images.shape[1]} channels, but the model takes {channels}; see preprocess.channels"
        )
    size = tuple(model.patch_embed.img_size or images.shape[2:])
    if tuple(images.shape[2:]) != size and not model.dynamic_img_size:
        raise FggError(f"images are {tuple(images.shape[2:])}, but the model takes {size}; see preprocess.resize")
    if any(length % patch for length, patch in zip(images.shape[2:], patch_size(model), strict=True)):
        raise FggError(
            f"images are {tuple(images.shape[2:])}, not divisible into patches of {patch_size(model)}; "
            "see preprocess.resize"
        )


def check_layers(model: VisionTransformer, layers: tuple[int, ...]) -> None:
    """Raise FggError if a layer is beyond the model's depth."""
    depth = len(model.blocks)
    for layer in layers:
        if not 0 <= layer < depth:
            raise FggError(f"layer {layer} is beyond the model's depth {depth}; layers are 0 to {depth - 1}")
