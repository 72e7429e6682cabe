"""A small CLIP model with random weights, as a folder in open_clip's own form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

WEIGHTS = "open_clip_model.safetensors"
# The timm tower that `write_clip` goes with: model.architecture and model.kwargs.
ARCHITECTURE = "vit_base_patch32_clip_224.datacompxl"
KWARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3, "mlp_ratio": 2}


def write_clip(folder: str | Path, seed: int = 1, quick_gelu: bool = False, **vision: Any) -> Any:
    """Write a small random CLIP model as ``folder/open_clip_config.json`` and ``folder/open_clip_model.safetensors``.

    It serves offline as ``model.zero_shot.open_clip: FOLDER`` and its weights as ``model.weights: FOLDER/WEIGHTS``,
    with `ARCHITECTURE` and `KWARGS` for the tower (and ``act_layer: quick_gelu`` where asked for). The tokenizer is
    open_clip's own, whose vocabulary comes with the package.

    Returns:
        The open_clip model, in eval mode.
    """
    import open_clip

    config = {
        "embed_dim": 16,
        "quick_gelu": quick_gelu,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 24, "layers": 4, "head_width": 8, "mlp_ratio": 2}
        | vision,
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = open_clip.CLIP(**config).eval()
        with torch.no_grad():
            for name, parameter in clip.named_parameters():
                # Norms and biases that do nothing would hide a mistake.
                if parameter.ndim == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
                elif name.startswith("visual.") and "embedding" not in name:
                    parameter.copy_(1.4 * torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file({name: tensor.contiguous() for name, tensor in clip.state_dict().items()}, folder / WEIGHTS)
    return clip
