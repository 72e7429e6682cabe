"""Load timm Vision Transformers, and the few facts about them that the methods need."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.layers import PatchEmbed
from timm.models import create_model, is_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fgg.errors import FggError
from fgg.models.architectures import VisionTransformerDistilled, refusal
from fgg.models.arguments import whole_number
from fgg.models.call_arguments import check_numbers
from fgg.models.checkpoints import first_line, read_named
from fgg.models.class_and_patches import POOL, ClassAndPatchesHead, give_head
from fgg.models.fit import fill
from fgg.models.hugging_face import Described, described
from fgg.models.hugging_face_names import FAMILIES

__all__ = ["fill", "load_model"]

NORM_EPS = "norm_eps"  # an argument of fgg's own beside timm's


def load_model(
    architecture: str,
    kwargs: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    weights_key: str | None = None,
) -> VisionTransformer:
    """Build one of timm's Vision Transformers in eval mode, float32, on the CPU.

    Args:
        architecture: timm's name of a model of `fgg.models.architectures.KINDS`, such as ``vit_base_patch16_224``.
        kwargs: overrides for timm, such as ``img_size``, ``patch_size``, ``embed_dim``, ``depth``. Beside timm's,
            ``norm_eps`` is the epsilon of all layer norms, and ``global_pool`` may be ``token_and_avg``, a head that
            reads the class token beside the mean of the patches.
        weights: None for random weights, ``pretrained`` for timm's hub, or the path of a checkpoint in any format
            that `fgg.models.checkpoints` reads. A config.json of transformers beside it gives ``kwargs``.
        num_classes: outputs of the head; None keeps timm's number, or that of the checkpoint's config.json.
        weights_key: the key or prefix of the weights in the checkpoint, if it holds several.

    Returns:
        The model; its ``pretrained_cfg`` holds the mean, standard deviation and labels that the checkpoint's folder names.

    Raises:
        FggError: the architecture is unknown, kwargs are wrong, the file is missing or damaged, or tensors do not fit
            (the message names them).
    """
    if not isinstance(architecture, str) or not is_model(architecture):
        raise FggError(f"model.architecture: timm has no model {architecture!r}; see timm.list_models('vit_*')")
    if not isinstance(kwargs, Mapping | None):
        raise FggError(f"model.kwargs: {kwargs!r} must be a dictionary of arguments for timm")
    if not isinstance(weights, str | Path | None):
        raise FggError(f"model.weights: {weights!r} must be 'pretrained', a path, or None for random weights")
    if num_classes is not None:
        num_classes = whole_number(num_classes, "num_classes", least=0)
    pretrained = weights == "pretrained"
    if weights is None or pretrained:
        return _built(architecture, dict(kwargs or {}), num_classes, pretrained).eval()
    found, known = read_named(weights, weights_key), described(weights)
    options = known.merged(kwargs or {}) if known else dict(kwargs or {})
    if known and num_classes is None and "num_classes" not in options:
        num_classes = known.classes
    if found.family and NORM_EPS not in options:
        options[NORM_EPS] = FAMILIES[found.family]
        print(
            f"note: model.weights: {weights} has the names of transformers' {found.family}, but no config.json beside "
            f"it: the norms' epsilon is {options[NORM_EPS]:g}, as is usual for it, and all else as in {architecture}",
            file=sys.stderr,
        )
    model = _built(architecture, options, num_classes, False)
    fill(model, found.state, weights)
    if known:
        with_config(model, known)
    return model.eval()


def with_config(model: VisionTransformer, known: Described) -> None:
    """Put mean, standard deviation, interpolation and labels of a checkpoint's folder into ``pretrained_cfg``."""
    timm: Any = model
    timm.pretrained_cfg = {**timm.pretrained_cfg, **known.config()}


def _built(architecture: str, options: dict[str, Any], num_classes: int | None, pretrained: bool) -> VisionTransformer:
    """A model with random or timm's own weights."""
    if num_classes is not None:
        options["num_classes"] = num_classes
    given = dict(options)
    eps, pooled = options.pop(NORM_EPS, None), options.get("global_pool") == POOL
    if eps is not None and (isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps < 1):
        raise FggError(f"model.kwargs.{NORM_EPS}: {eps!r} must be a number from 0 to 1, such as 1.0e-6")
    if pooled:
        options["global_pool"] = ""
    try:
        model: Any = create_model(architecture, pretrained=pretrained, **options)
    except (OSError, RuntimeError) as error:
        if pretrained:
            raise FggError(
                f"model.weights: the pretrained weights of {architecture!r} cannot be fetched ({first_line(error)}); "
                "check the network, or give the path of a file"
            ) from None
        raise FggError(_unbuildable(architecture, given, error)) from None
    except (TypeError, AssertionError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise FggError(_unbuildable(architecture, given, error)) from None
    if reason := refusal(model):
        raise FggError(f"model.architecture: {architecture!r} is {reason}")
    if eps is not None:
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = float(eps)
    return give_head(model) if pooled else model


def _unbuildable(architecture: str, options: Mapping[str, Any], error: Exception) -> str:
    return f"model.kwargs: timm cannot build {architecture!r} with {dict(options)}: {first_line(error)}"


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
    """Whether the head reads the class token, or the class and the distillation token (otherwise it pools the patches)."""
    return model.cls_token is not None and model.global_pool == "token" and _attn_pool(model) is None


def head_tokens(model: VisionTransformer) -> int:
    """How many tokens at the start the head reads and nothing else: 1 or 2; 0 if it pools the patches."""
    return (2 if isinstance(model, VisionTransformerDistilled) else 1) if reads_class_token(model) else 0


def pools_prefix(model: VisionTransformer) -> bool:
    """Whether a head that pools takes the prefix tokens, too."""
    return getattr(model, "pool_include_prefix", False)


def _attn_pool(model: VisionTransformer) -> nn.Module | None:
    return getattr(model, "attn_pool", None)


def readout(model: VisionTransformer, like: Tensor) -> Tensor:
    """The row of the identity that the head reads: the class token's, or the mean of the tokens that the head pools.

    The tokens are the patches, and with ``pool_include_prefix`` all tokens. A head that reads the class token beside the
    mean of the patches has half of each row, and so has the mean of two heads on the class and the distillation token.

    Args:
        like: (B, T, …), gives the row its batch, tokens, dtype and device.

    Returns:
        (B, T).

    Raises:
        FggError: the head takes maxima.
    """
    if model.global_pool in ("max", "avgmax") and _attn_pool(model) is None:
        raise FggError(
            f"the head takes the maximum over the patches (global_pool={model.global_pool!r}), so no row of the attention "
            "stands for what it reads; choose a method of gradients or perturbations"
        )
    batch, tokens = like.shape[:2]
    row = like.new_zeros(batch, tokens)
    if own := head_tokens(model):
        row[:, :own] = 1 / own
    else:
        first = 0 if pools_prefix(model) else model.num_prefix_tokens
        row[:, first:] = 1 / (tokens - first)
    if isinstance(model.head, ClassAndPatchesHead):
        row = row / 2
        row[:, 0] = 0.5
    return row


def check_images(model: VisionTransformer, images: Tensor) -> None:
    """Raise FggError unless fgg knows the kind of model and the images are a batch (B, C, H, W) that it takes."""
    if reason := refusal(model):
        raise FggError(f"the model is {reason}; see fgg.load_model")
    if not isinstance(images, Tensor):
        hint = "give its .tensors" if isinstance(getattr(images, "tensors", None), Tensor) else "see torch.from_numpy"
        raise FggError(f"images must be a float tensor (B, C, H, W), not a {type(images).__name__}; {hint}")
    check_numbers(images, "images")
    _check_device(model, images)
    # In a hybrid, the projection follows a backbone and says nothing about the images.
    channels = model.patch_embed.proj.in_channels if type(model.patch_embed) is PatchEmbed else None
    if images.ndim != 4 or not images.is_floating_point():
        raise FggError(f"images must be a float tensor (B, C, H, W), not {images.dtype} {tuple(images.shape)}")
    _check_head(model)
    own = next(model.parameters()).dtype
    if own in (torch.float16, torch.bfloat16):
        raise FggError(
            f"the model is {own}, whose gradients are too coarse for maps; use model.float() and images.float()"
        )
    if images.dtype != own and not torch.is_autocast_enabled(images.device.type):
        raise FggError(f"images are {images.dtype}, but the model is {own}; convert them with images.to({own})")
    if channels is not None and images.shape[1] != channels:
        raise FggError(
            f"images have {images.shape[1]} channels, but the model takes {channels}; see preprocess.channels"
        )
    size = tuple(model.patch_embed.img_size or images.shape[2:])
    # Rotary positions and biases are those of the model's own grid.
    flexible = isinstance(model, VisionTransformer) and model.dynamic_img_size
    if tuple(images.shape[2:]) != size and not flexible:
        raise FggError(f"images are {tuple(images.shape[2:])}, but the model takes {size}; see preprocess.resize")
    if any(length % patch for length, patch in zip(images.shape[2:], patch_size(model), strict=True)):
        raise FggError(
            f"images are {tuple(images.shape[2:])}, not divisible into patches of {patch_size(model)}; "
            "see preprocess.resize"
        )


def _check_device(model: VisionTransformer, images: Tensor) -> None:
    """Raise FggError unless the model has values, on the images' device."""
    own = next(model.parameters())
    check_numbers(own, "the model")
    if own.device != images.device:
        raise FggError(f"images are on {images.device}, but the model is on {own.device}; move one: images.to(…)")


def _check_head(model: VisionTransformer) -> None:
    """Raise FggError if the head gives no logits of at least two classes."""
    if isinstance(model.head, nn.Identity):
        raise FggError("the model has no head (num_classes=0), so it gives no logits; load it with its classes")
    pooled = isinstance(model.head, ClassAndPatchesHead)
    if not model.global_pool and _attn_pool(model) is None and not pooled:
        raise FggError(
            "the model does not pool its tokens (global_pool=''), so it gives logits for each token; set global_pool "
            "to token or avg"
        )
    classes = model.head.out_features if isinstance(model.head, nn.Linear) else model.num_classes
    if classes == 1:
        raise FggError(
            "the model has one class, whose probability is always 1, so no score means anything; give it a second "
            "output, which is 0 for the logit of a yes-or-no model"
        )


def check_layers(model: VisionTransformer, layers: tuple[int, ...]) -> None:
    """Raise FggError if a layer is beyond the model's depth."""
    depth = len(model.blocks)
    for layer in layers:
        if not 0 <= layer < depth:
            raise FggError(f"layer {layer} is beyond the model's depth {depth}; layers are 0 to {depth - 1}")
