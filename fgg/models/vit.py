"""Loading timm Vision Transformers, and the few facts about them that the methods need."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from timm.layers import PatchEmbed
from timm.models import create_model, is_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fgg.errors import FggError

# What the readers of weights raise for damaged or foreign files; to the user they all mean the same.
UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    pickle.UnpicklingError,
    SafetensorError,
)


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
        weights: None for random weights, ``pretrained`` for timm's hub, or the path of a .safetensors, .pth
            or .pt file (a plain state dict, or one under ``model_state_dict`` or ``state_dict``).
        num_classes: outputs of the head; None keeps timm's number.

    Raises:
        FggError: unknown architecture, wrong kwargs, a missing or damaged file, or tensors that do not fit
            (each is named).
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
        # Such as the distilled ones, whose head reads two tokens.
        raise FggError(f"model.architecture: {architecture!r} is a {type(model).__name__}, whose head is not supported")
    if not isinstance(model, VisionTransformer):
        raise FggError(f"model.architecture: {architecture!r} is a {type(model).__name__}, not a VisionTransformer")
    if weights is not None and not pretrained:
        _fill(model, read_weights(weights), weights)
    return model.eval()


def _unbuildable(architecture: str, options: Mapping[str, Any], error: Exception) -> str:
    return f"model.kwargs: timm cannot build {architecture!r} with {dict(options)}: {first_line(error)}"


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors file, or safely (no code is run) from a .pth or .pt file.

    Raises:
        FggError: the file is missing, damaged, of another kind, or holds NaN.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FggError(f"model.weights: {path} {what}; choose 'train', 'pretrained' or the path of a file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        elif path.suffix in (".pth", ".pt"):
            state = torch.load(path, map_location="cpu", weights_only=True)
            for name in ("model_state_dict", "state_dict"):
                if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
                    state = state[name]
        else:
            raise FggError(f"model.weights: {path} is neither .safetensors nor .pth nor .pt")
    except FggError:
        raise
    except UNREADABLE as error:
        # torch's own text advises to read it unsafely; that is not for here.
        reason = "it holds more than tensors, or is damaged" if path.suffix != ".safetensors" else first_line(error)
        raise FggError(f"model.weights: {path} cannot be read safely as weights: {reason}") from None
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise FggError(f"model.weights: {path} holds no state dict of tensors")
    odd = [name for name, tensor in state.items() if tensor.layout != torch.strided or tensor.is_complex()]
    if odd:
        raise FggError(f"model.weights: {path} holds sparse or complex tensors in {_names(odd)}")
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise FggError(f"model.weights: {path} holds NaN or infinite values in {_names(broken)}")
    return dict(state)


def _fill(model: torch.nn.Module, state: dict[str, Tensor], origin: str | Path) -> None:
    """Load the state dict, or say which tensors are missing, unexpected or of the wrong shape."""
    own = model.state_dict()
    faults = []
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in state and own[name].shape != state[name].shape
    ]
    if missing:
        faults.append(f"missing: {_names(missing)}")
    if unexpected:
        faults.append(f"unexpected: {_names(unexpected)}")
    if shapes:
        faults.append(f"wrong shape: {_names(shapes)}")
    if faults:
        raise FggError(
            f"model.weights: {origin} does not fit the architecture; {'; '.join(faults)}. "
            "Check model.architecture, model.kwargs and the number of classes"
        )
    model.load_state_dict(state)


def first_line(error: BaseException) -> str:
    """The first line of an error's text; its kind where the text alone says little."""
    text = next(iter(str(error).strip().splitlines()), "")
    return text if " " in text else f"{type(error).__name__} {text}".strip()


def _names(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def num_patches(model: VisionTransformer) -> int:
    """N for the model's own input size."""
    height, width = grid_size(model)
    return height * width


def grid_size(model: VisionTransformer) -> tuple[int, int]:
    """Rows and columns of patches for the model's own input size."""
    height, width = model.patch_embed.grid_size
    return int(height), int(width)


def patch_size(model: VisionTransformer) -> tuple[int, int]:
    """Height and width of a patch in pixels; of a hybrid, of what one of its tokens sees of the grid."""
    if type(model.patch_embed) is PatchEmbed:
        height, width = model.patch_embed.patch_size
        return int(height), int(width)
    (height, width), (rows, columns) = model.patch_embed.img_size, model.patch_embed.grid_size
    return int(height) // int(rows), int(width) // int(columns)


def reads_class_token(model: VisionTransformer) -> bool:
    """Whether the head reads the class token (otherwise it pools the patches)."""
    return model.cls_token is not None and model.global_pool == "token" and model.attn_pool is None


def readout(model: VisionTransformer, batch: int, tokens: int, like: Tensor) -> Tensor:
    """The row of the identity that the head reads, (B, T): the class token's, or the mean of the patches'."""
    row = like.new_zeros(batch, tokens)
    if reads_class_token(model):
        row[:, 0] = 1
    else:
        patches = tokens - model.num_prefix_tokens
        row[:, model.num_prefix_tokens :] = 1 / patches
    return row


def check_images(model: VisionTransformer, images: Tensor) -> None:
    """Raise FggError when the batch is not (B, C, H, W) of the size that the model takes."""
    # Of a hybrid the projection follows a backbone, and says nothing of the images.
    channels = model.patch_embed.proj.in_channels if type(model.patch_embed) is PatchEmbed else None
    if images.ndim != 4 or not images.is_floating_point():
        raise FggError(f"images must be a float tensor (B, C, H, W), not {images.dtype} {tuple(images.shape)}")
    if channels is not None and images.shape[1] != channels:
        raise FggError(f"images have {images.shape[1]} channels, the model takes {channels}; see preprocess.channels")
    size = tuple(model.patch_embed.img_size or images.shape[2:])
    if tuple(images.shape[2:]) != size and not model.dynamic_img_size:
        raise FggError(f"images are {tuple(images.shape[2:])}, the model takes {size}; see preprocess.resize")
    if any(length % patch for length, patch in zip(images.shape[2:], patch_size(model), strict=True)):
        raise FggError(
            f"images are {tuple(images.shape[2:])}, which patches of {patch_size(model)} do not divide; "
            "see preprocess.resize"
        )


def check_layers(model: VisionTransformer, layers: tuple[int, ...]) -> None:
    """Raise FggError when a layer is beyond the model's depth."""
    depth = len(model.blocks)
    for layer in layers:
        if not 0 <= layer < depth:
            raise FggError(f"layer {layer} is beyond the model's depth {depth}; layers are 0 to {depth - 1}")
