"""sae-lens folders, as ``SAE.save_inference_model`` writes them and ``SAE.load_from_disk`` reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fgg.errors import FggError
from fgg.models.checkpoints import UNREADABLE, first_line
from fgg.saes.formats.registry import sae_format
from fgg.saes.sae import SAE_FILES


@sae_format(name="sae-lens folder", files="cfg.json and sae_weights.safetensors", place=1)
def sae_lens_folder(path: Path) -> Any | None:
    """Load the SAE of a sae-lens folder.

    Raises:
        FggError: its files are damaged, or hold something that sae-lens does not know.
    """
    if not all((path / name).is_file() for name in SAE_FILES):
        return None
    from sae_lens import SAE

    try:
        json.loads((path / SAE_FILES[0]).read_text(encoding="utf-8"))
        return SAE.load_from_disk(path, device="cpu", dtype="float32")
    except UNREADABLE as error:
        raise FggError(f"sae.weights: {path} cannot be read as a sae-lens SAE ({first_line(error)})") from None
