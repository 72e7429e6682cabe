"""Write SAEs as sae-lens folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from fgg.errors import FggError
from fgg.saes.sae import SAE_FILES


def save_inference(sae: Any, folder: Path) -> None:
    """Write the SAE as a sae-lens folder, which `SAE.load_from_disk` reads.

    Raises:
        FggError: such a folder cannot store the activation.
    """
    if isinstance(sae.activation_fn, torch.nn.Sequential):
        raise FggError("sae.weights: a sae-lens folder cannot store a tanh-relu activation; use the SAE from Python")
    device = str(sae.device)
    sae.to("cpu")
    try:
        if hasattr(sae, "save_inference_model"):
            sae.save_inference_model(folder)
        else:
            sae.save_model(folder)
    except SafetensorError as error:
        raise FggError(f"the SAE cannot be written to {folder} ({error}); check whether the disk is full") from None
    # sae-lens writes the keys in the order of a set, which differs from process to process.
    config = json.loads((folder / SAE_FILES[0]).read_text(encoding="utf-8"))
    (folder / SAE_FILES[0]).write_text(json.dumps(config, sort_keys=True), encoding="utf-8")
    sae.to(device)
