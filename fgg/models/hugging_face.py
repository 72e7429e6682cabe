"""What a model's folder from the hub says beside the weights: the shape of the model, its labels, its preprocessing.

Read are ``config.json`` and ``preprocessor_config.json`` of Hugging Face's transformers, and timm's ``config.json``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fgg.errors import FggError
from fgg.models.class_and_patches import POOL
from fgg.models.hugging_face_names import FAMILIES
from fgg.models.weight_files import IN_A_FOLDER, PART, chosen, folder_of, read_object

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
# transformers' names of activations, and timm's.
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "relu": "relu", "silu": "silu", "swish": "silu"}  # fmt: skip
# Numbers of PIL's ways to resize.
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
MOST_SIZE, MOST_WEIGHTS = 2**16, 2**32  # an untrusted file could ask for more memory than there is
CHANGEABLE = ("img_size", "num_classes")


@dataclass(frozen=True)
class Described:
    """What a folder says about a model.

    Attributes:
        source: the file that says it.
        kwargs: arguments for timm.
        labels: names of the classes, in order; empty if they have none.
        classes: their number; None if it is not known.
        mean, std: of the standardised input; None if they are not known.
        interpolation: of the resizing; None if it is not known.
    """

    source: Path
    kwargs: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    classes: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None

    def merged(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The folder's arguments for timm and those that the user gives, which may change the size of the images.

        Raises:
            FggError: an argument says something else than the folder.
        """
        for key, value in given.items():
            own = self.kwargs.get(key, value)
            if key not in CHANGEABLE and _pair(own) != _pair(value):
                raise FggError(f"model.kwargs.{key}: {value!r}, but {self.source} says {own!r}; leave it out")
        return {**self.kwargs, **given}

    def config(self) -> dict[str, Any]:
        """What replaces entries of a timm model's ``pretrained_cfg``."""
        found = {"mean": self.mean, "std": self.std, "interpolation": self.interpolation}
        return {key: value for key, value in found.items() if value} | (
            {"label_names": list(self.labels)} if self.labels else {}
        )


def described(path: str | Path) -> Described | None:
    """What the files beside a checkpoint say about its model; None if there are none that fgg knows.

    Raises:
        FggError: a file is damaged, or describes a model that is no Vision Transformer with a class token.
    """
    folder, own = folder_of(path), chosen(path)
    config = folder / CONFIG
    if not config.is_file():
        return None
    theirs = own.is_dir() or own.name in IN_A_FOLDER[:4] or PART.fullmatch(own.name) is not None
    try:
        told = read_object(config)
    except FggError:
        if theirs:
            raise
        return None  # a file of another program beside the weights
    if "model_type" in told:
        if told["model_type"] in FAMILIES:
            return _of_transformers(config, told)
        if theirs:
            raise FggError(
                f"model.weights: {config} describes a model of transformers of the type {told['model_type']!r}; fgg reads "
                f"{', '.join(FAMILIES)}, for CLIP use open_clip's file, and for others timm's weights"
            )
    elif isinstance(told.get("pretrained_cfg"), dict):
        return _of_timm(config, told)
    return None


def _of_timm(path: Path, told: Mapping[str, Any]) -> Described:
    known = told["pretrained_cfg"]
    kwargs = told.get("model_args") if isinstance(told.get("model_args"), dict) else {}
    labels = known.get("label_names") or told.get("label_names") or ()
    interpolation = known.get("interpolation")
    return Described(
        path,
        kwargs={key: value for key, value in kwargs.items() if key != "num_classes"},
        labels=tuple(map(str, labels)) if isinstance(labels, list) else (),
        classes=told.get("num_classes") if isinstance(told.get("num_classes"), int) else None,
        mean=_numbers(known.get("mean")),
        std=_numbers(known.get("std")),
        interpolation=interpolation if interpolation in RESAMPLING.values() else None,
    )


def _of_transformers(path: Path, told: Mapping[str, Any]) -> Described:
    try:
        kwargs = _kwargs(told)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise FggError(f"model.weights: {path} lacks or distorts {error}; fetch it again") from None
    named = told.get("id2label")
    labels: tuple[str, ...] = ()
    if isinstance(named, dict) and all(str(key).isdecimal() and len(str(key)) < 10 for key in named):
        labels = tuple(str(named[key]) for key in sorted(named, key=int))
    elif isinstance(told.get("num_labels"), int):
        labels = tuple(f"LABEL_{number}" for number in range(told["num_labels"]))
    plain = all(label == f"LABEL_{number}" for number, label in enumerate(labels))
    mean, std, interpolation = _preprocessing(path.with_name(PREPROCESSOR))
    return Described(path, kwargs, () if plain else labels, len(labels) or None, mean, std, interpolation)


def _kwargs(told: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for timm from the configuration of a ViT, DeiT, DINOv2 or BEiT."""
    kind, width = told["model_type"], told["hidden_size"]
    sizes = [width, told["num_hidden_layers"], told["num_attention_heads"], told.get("num_register_tokens", 1)]
    sizes += [told.get("intermediate_size", 1), told["image_size"], told["patch_size"]]
    flat = [side for size in sizes for side in (size if isinstance(size, list) else [size])]
    if not all(type(size) is int and 0 <= size <= MOST_SIZE for size in flat) or width**2 * sizes[1] > MOST_WEIGHTS:
        raise ValueError("its sizes, which no model has")
    activation = told.get("hidden_act", "gelu")
    found: dict[str, Any] = {
        "img_size": told["image_size"],
        "patch_size": told["patch_size"],
        "in_chans": told.get("num_channels", 3),
        "embed_dim": width,
        "depth": told["num_hidden_layers"],
        "num_heads": told["num_attention_heads"],
        "qkv_bias": bool(told.get("qkv_bias", True)),
        "norm_eps": float(told.get("layer_norm_eps", FAMILIES[kind])),
    }
    if not told.get("use_swiglu_ffn"):  # timm has it only in architectures of their own
        if activation not in ACTIVATIONS:
            raise ValueError(f"hidden_act {activation!r}")
        found["mlp_ratio"] = (
            _ratio(width, told["intermediate_size"]) if kind in ("vit", "deit", "beit") else told["mlp_ratio"]
        )
        if ACTIVATIONS[activation] != "gelu":
            found["act_layer"] = ACTIVATIONS[activation]
    if kind == "deit" and not any("WithTeacher" in str(name) for name in told.get("architectures") or ()):
        found["reg_tokens"] = 1  # the distillation token, which no head reads
    if kind == "beit":
        found |= {
            "use_abs_pos_emb": bool(told.get("use_absolute_position_embeddings")),
            "use_rel_pos_bias": bool(told.get("use_relative_position_bias")),
            "use_shared_rel_pos_bias": bool(told.get("use_shared_relative_position_bias")),
            "init_values": told.get("layer_scale_init_value") or 0,  # timm overlooks None
            "global_pool": "avg" if told.get("use_mean_pooling", True) else "token",
        }
    if kind.startswith("dinov2"):
        found["init_values"] = told.get("layerscale_value", 1.0) or 1.0
        found["global_pool"] = POOL
    if kind == "dinov2_with_registers":
        found["reg_tokens"] = told["num_register_tokens"]
        found["no_embed_class"] = True
    return found


def _ratio(width: int, hidden: int) -> float:
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def _preprocessing(path: Path) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None, str | None]:
    """Mean, standard deviation and interpolation, for images in 0 to 1."""
    if not path.is_file():
        return None, None, None
    told = read_object(path)
    mean, std = _numbers(told.get("image_mean")), _numbers(told.get("image_std"))
    if told.get("do_normalize") is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    # transformers multiplies bytes by a factor; fgg divides them by 255.
    scale = 1.0 if told.get("do_rescale") is False else told.get("rescale_factor")
    scale = 1 / 255 if scale is None else scale
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise FggError(f"model.weights: {path}: rescale_factor {scale!r} must be a number above 0; fetch it again")
    factor = 255.0 * scale
    if mean and std and abs(factor - 1) > 1e-6:
        mean, std = tuple(value / factor for value in mean), tuple(value / factor for value in std)
    resample = told.get("resample")
    return mean, std, RESAMPLING.get(resample) if type(resample) is int else None


def _numbers(values: Any) -> tuple[float, ...] | None:
    fits = isinstance(values, list) and values and all(isinstance(value, int | float) for value in values)
    return tuple(float(value) for value in values) if fits else None


def _pair(value: Any) -> Any:
    """A size as a pair, so that 8 and [8, 8] are the same; other values as they are."""
    return tuple(value) if isinstance(value, list | tuple) else (value, value)
