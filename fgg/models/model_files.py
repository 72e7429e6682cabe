"""A model's folder: ``model.safetensors`` with the weights in timm names, ``model.json`` with everything else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from fgg.checksums import check
from fgg.data.preprocess import Preprocess
from fgg.errors import FggError
from fgg.models import zero_shot
from fgg.models.checkpoints import read
from fgg.models.vit import fill, load_model
from fgg.tables import atomic, read_json, write_json


def save(folder: str | Path, model: VisionTransformer, record: dict[str, Any], settings: dict[str, Any]) -> None:
    """Write a model's folder; the record must hold ``architecture``, ``kwargs``, ``classes`` and ``preprocess``."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic(Path(folder) / "model.safetensors") as temporary:
        try:
            save_file(state, temporary)
        except SafetensorError as error:
            # safetensors hides the system's error, most often a full disk.
            raise FggError(
                f"{Path(folder) / 'model.safetensors'} cannot be written ({error}); check whether the disk is full"
            ) from None
    write_json(Path(folder) / "model.json", record, settings)


def load(folder: str | Path, device: torch.device) -> tuple[VisionTransformer, Preprocess, dict[str, Any]]:
    """Read a model's folder: the model in eval mode on the device, its preprocessing, and its record.

    Raises:
        FggError: files are missing or damaged, or tensors do not fit.
    """
    folder = Path(folder)
    record = read_json(folder / "model.json")
    try:
        preprocess = Preprocess.from_dict(record["preprocess"])
        model = blank(record)
    except (KeyError, TypeError) as error:
        raise FggError(f"{folder / 'model.json'} lacks {error}; delete the folder and run the workflow again") from None
    check(folder / "model.safetensors")
    fill(model, read(folder / "model.safetensors"), folder / "model.safetensors")
    return model.to(device), preprocess, record


def blank(record: Mapping[str, Any]) -> VisionTransformer:
    """The model that a record describes, with fresh random weights, in eval mode."""
    architecture, kwargs, classes = record["architecture"], record["kwargs"], record["classes"]
    head = record.get("zero_shot")
    if head:
        return zero_shot.blank(architecture, kwargs, head["embedding"], len(classes), head["temperature"])
    return load_model(architecture, kwargs, num_classes=len(classes))
