"""Which files of a repository on the hub a setting needs, as patterns. Does not import torch."""

from __future__ import annotations

import glob
from pathlib import PurePosixPath

OPTIONAL = "optional:"  # before a pattern of files that a repository may lack
OR = "|"  # between patterns of which one must match
LENS_FILES = ("cfg.json", "sae_weights.safetensors")
SETTINGS_BESIDE = ("config.json", "config.yaml")  # of other SAEs' weights; some formats need none
OPEN_CLIP = ("open_clip_config.json", "open_clip_*model.*")
# What a model's folder must hold, whole or in parts, and what may describe it.
MODEL_FILES = ("model.safetensors", "model-*-of-*.safetensors", "pytorch_model.bin", "pytorch_model-*-of-*.bin")
MODEL_BESIDE = ("config.json", "preprocessor_config.json")
INDEX, PARTS = ".index.json", "-*-of-*"


def wanted(key: str, within: str) -> list[str]:
    """Patterns of the files that must be downloaded for a path within a repository, ``""`` for all of it.

    Args:
        key: the setting: model.weights, model.zero_shot.open_clip or sae.weights.
    """
    own = PurePosixPath(within)
    if key == "model.zero_shot.open_clip":
        return list(OPEN_CLIP)
    if key == "sae.weights":
        if not own.suffix:  # a sae-lens folder
            return [str(own / name) for name in LENS_FILES]
        if own.name == LENS_FILES[1]:
            return [str(own), str(own.with_name(LENS_FILES[0]))]
        beside = SETTINGS_BESIDE if own.suffix in (".pt", ".pth", ".safetensors") else ()
        return [str(own), *(OPTIONAL + str(own.with_name(name)) for name in beside)]
    return _model(own)


def _model(own: PurePosixPath) -> list[str]:
    """Patterns for a model: its weights with all their parts, and what describes them."""
    name, folder = own.name, own.parent
    number = own.suffix[1:].isdigit()  # of a version, such as v1.0
    if not glob.has_magic(name) and (number or not own.suffix):
        folder, weights = own, [OR.join(MODEL_FILES)]
        beside = [each + INDEX for each in MODEL_FILES if PARTS not in each]
    elif name.endswith(INDEX):
        whole = PurePosixPath(name.removesuffix(INDEX))
        weights, beside = [name, f"{whole.stem}{PARTS}{whole.suffix}"], []
    elif "-of-" in name:  # a part, or a pattern of parts
        stem = name.split("-")[0]
        weights, beside = [f"{stem}{PARTS}{own.suffix}"], [f"{stem}{own.suffix}{INDEX}"]
    else:
        weights, beside = [name], []
    if not name.startswith("open_clip"):
        beside += MODEL_BESIDE
    return [*(str(folder / each) for each in weights), *(OPTIONAL + str(folder / each) for each in beside)]
