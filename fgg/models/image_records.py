"""What is written about the images that a model's weights were trained on: their size, interpolation, mean and std.

Read are preprocessor_config.json of transformers, timm's ``pretrained_cfg``, and open_clip's ``preprocess_cfg``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from timm.models.vision_transformer import VisionTransformer

from fgg.data.preprocess import INTERPOLATIONS, SHORTER
from fgg.models.hugging_face import PREPROCESSOR, Described
from fgg.models.weight_files import read_object

TIMM, TIMM_USUAL = "timm's for these weights", "timm's for the architecture"
ASSUMED = f"assumed: {TIMM_USUAL}, since the weights name none"
OPEN_CLIP = "open_clip_config.json"
SHORTEST = ("Bit", "CLIP")  # image processors of transformers for which a single number is the shorter side
MOST_SIDE = 2**16
WHOLE = "the images are resized to the model's input, without a crop"


@dataclass(frozen=True)
class Said:
    """What is written about the images of some weights; None where nothing is.

    Attributes:
        resize, crop: [H, W] or {"shorter": n}, and the side of the centre crop after it, None for the whole.
        interpolation, mean, std: as in `fgg.data.preprocess.Preprocess`.
        origins: attribute -> where it is written.
    """

    resize: Any = None
    crop: int | None = None
    interpolation: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    origins: Mapping[str, str] = field(default_factory=dict)


def said_by_weights(
    options: Mapping[str, Any], shape: VisionTransformer, known: Described | None, whole: bool = False
) -> Said:
    """What is written about the images of a model's weights.

    Args:
        options: the settings ``model``: weights, and perhaps zero_shot.
        shape: the model, perhaps with other weights.
        known: what the folder of the weights says, if it says anything.
        whole: whether the images have their final size, so that nothing may be cropped.

    Raises:
        FggError: a file beside the weights is damaged.
    """
    if options.get("zero_shot"):
        found = _of_open_clip(options["zero_shot"]["open_clip"], shape)
    elif options["weights"] == "train":
        found = Said()
    elif known is not None:
        found = _of_folder(known, shape)
    elif options["weights"] == "pretrained":
        found = _of_timm(shape.pretrained_cfg, shape, TIMM)
    else:
        own = shape.pretrained_cfg
        found = Said(mean=own.get("mean"), std=own.get("std"), origins=dict.fromkeys(("mean", "std"), ASSUMED))
    return replace(found, resize=None, crop=None) if whole else found


def _of_timm(told: Mapping[str, Any], shape: VisionTransformer, origin: str) -> Said:
    """As in timm's own evaluation: resize to size / crop_pct, keeping the proportions or not, and take the centre."""
    height, width = shape.patch_embed.img_size
    share, mode = told.get("crop_pct") or 1.0, told.get("crop_mode") or "center"
    resize: Any = None
    if mode not in ("center", "squash") or not isinstance(share, int | float) or not 0 < share <= 1:
        note(f"fgg has no crop of mode {mode!r} and share {share!r}, which {origin} names: {WHOLE}")
    elif height == width:
        side = math.floor(height / share)
        resize = {SHORTER: side} if mode == "center" else [side, side]
    found: dict[str, Any] = {
        "resize": resize,
        "crop": None if resize is None else height,
        "interpolation": _one_of(INTERPOLATIONS, told.get("interpolation")),
        "mean": _numbers(told.get("mean")),
        "std": _numbers(told.get("std")),
    }
    return Said(**found, origins=dict.fromkeys(found, origin))


def _of_folder(known: Described, shape: VisionTransformer) -> Said:
    """What the files beside the weights say; a mean and std that they lack are timm's for the architecture."""
    told, path, origin = read_object(known.source), known.source.with_name(PREPROCESSOR), str(known.source)
    if "model_type" not in told and isinstance(told.get("pretrained_cfg"), Mapping):
        found = _of_timm(told["pretrained_cfg"], shape, origin)
        resize, crop = found.resize, found.crop
    elif path.is_file():
        origin = str(path)
        resize, crop = _of_processor(read_object(path), path)
    else:
        resize, crop = None, None
    values: dict[str, Any] = {"interpolation": known.interpolation, "mean": known.mean, "std": known.std}
    origins = dict.fromkeys(("resize", "crop", *values), origin)
    for key in ("mean", "std"):
        if values[key] is None:
            values[key], origins[key] = shape.pretrained_cfg.get(key), ASSUMED
    return Said(resize, crop, **values, origins=origins)


def _of_processor(told: Mapping[str, Any], path: Path) -> tuple[Any, int | None]:
    """Resize and crop of a preprocessor_config.json; None and None where the whole image becomes the model's input."""
    kind = str(told.get("image_processor_type") or told.get("feature_extractor_type") or "")
    size, crop = told.get("size"), told.get("crop_size")
    if told.get("do_resize") is False or size is None:
        return None, None
    resize: Any = None
    if type(size) is int:
        resize = {SHORTER: size} if kind.startswith(SHORTEST) else [size, size]
    elif isinstance(size, Mapping):
        own = {key: side for key, side in size.items() if side is not None}
        if set(own) == {"shortest_edge"}:
            resize = {SHORTER: own["shortest_edge"]}
        elif set(own) == {"height", "width"}:
            resize = [own["height"], own["width"]]
    side: Any = None
    if told.get("do_center_crop", crop is not None):
        sides = [crop, crop] if not isinstance(crop, Mapping) else [crop.get("height"), crop.get("width")]
        side = sides[0] if sides[0] == sides[1] else 0
    kept = list(resize.values()) if isinstance(resize, Mapping) else resize or [0]
    if not all(type(each) is int and 0 < each <= MOST_SIDE for each in [*kept, *([side] if side is not None else [])]):
        note(f"fgg has no resizing to {size!r} with a crop of {crop!r}, as {path} names it: {WHOLE}")
        return None, None
    if side is None and isinstance(resize, Mapping):
        note(f"{path} keeps the proportions and crops nothing, but the model takes one size only: {WHOLE}")
        return None, None
    if side is not None and side > min(kept):
        note(f"the crop of {side} in {path} is larger than the resized image: {WHOLE}")
        return None, None
    return resize, side


def _of_open_clip(name: str, shape: VisionTransformer) -> Said:
    """Timm's settings of the tower, and those of open_clip's own file where there is one."""
    found = _of_timm(shape.pretrained_cfg, shape, TIMM_USUAL)
    path = Path(name.removeprefix("local-dir:")) / OPEN_CLIP
    told = read_object(path).get("preprocess_cfg") if path.is_file() else None
    if not isinstance(told, Mapping):
        return found
    changes: dict[str, Any] = {key: own for key in ("mean", "std") if (own := _numbers(told.get(key)))}
    if interpolation := _one_of(INTERPOLATIONS, told.get("interpolation")):
        changes["interpolation"] = interpolation
    side = shape.patch_embed.img_size[0]
    modes: dict[Any, tuple[Any, int | None]] = {"shortest": ({SHORTER: side}, side), "squash": ([side, side], None)}
    if mode := _one_of(modes, told.get("resize_mode")):
        changes["resize"], changes["crop"] = modes[mode]
    return replace(found, **changes, origins={**found.origins, **dict.fromkeys(changes, str(path))})


def _one_of(known: Iterable[str], name: Any) -> str | None:
    return name if isinstance(name, str) and name in known else None


def _numbers(values: Any) -> tuple[float, ...] | None:
    fits = isinstance(values, list | tuple) and values and all(isinstance(value, int | float) for value in values)
    return tuple(float(value) for value in values) if fits else None


def note(text: str) -> None:
    """Print a note about the preprocessing to the log."""
    print(f"note: preprocess: {text}", file=sys.stderr)
