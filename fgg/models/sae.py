"""Loading sparse autoencoders of the residual stream as sae-lens SAEs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fgg.errors import FggError
from fgg.models.checkpoints import UNREADABLE, first_line

SAE_FILES = ("cfg.json", "sae_weights.safetensors")


def load_sae(path: str | Path) -> Any:
    """Load an SAE: a sae-lens folder, or a Prisma checkpoint (its folder, or its one-file form).

    Returns:
        A ``sae_lens.SAE`` in float32 on the CPU, with ``encode`` (…, D) to (…, F), ``decode``, and ``W_dec`` (F, D).

    Raises:
        FggError: nothing there, an unknown form, damaged files, or NaN weights.
    """
    path = Path(path)
    if (path / SAE_FILES[0]).is_file() and (path / SAE_FILES[1]).is_file():
        sae = _load_sae_lens(path)
    elif path.is_file() or (path / "config.json").is_file():
        from fgg.models.prisma import load_prisma

        sae = load_prisma(path)
    elif path.exists():
        raise FggError(
            f"sae.weights: {path} is neither a sae-lens folder ({' and '.join(SAE_FILES)}) "
            "nor a Prisma one (config.json and a .pt file)"
        )
    else:
        raise FggError(f"sae.weights: {path} does not exist; check the path, or let fgg train with 'train'")
    for name, tensor in sae.state_dict().items():
        if not tensor.isfinite().all():
            raise FggError(f"sae.weights: {path} holds NaN or infinite values in {name}")
    return sae.eval().requires_grad_(False)


def _load_sae_lens(path: Path) -> Any:
    from sae_lens import SAE

    try:
        json.loads((path / SAE_FILES[0]).read_text(encoding="utf-8"))
        return SAE.load_from_disk(path, device="cpu", dtype="float32")
    except UNREADABLE as error:
        raise FggError(f"sae.weights: {path} cannot be read as a sae-lens SAE ({first_line(error)})") from None


def check_sae(sae: Any, model: VisionTransformer, layer: int) -> None:
    """Raise FggError when the SAE's decoder does not have the residual stream's width."""
    width = sae.W_dec.shape[-1]
    if width != model.embed_dim:
        raise FggError(
            f"the SAE for layer {layer} has width {width}, the model's residual stream {model.embed_dim}; "
            "it was trained on another model"
        )


def build_sae(
    tensors: dict[str, Tensor], activation: str = "relu", normalize: str = "none", k: int | None = None
) -> Any:
    """A sae-lens SAE from weights.

    Args:
        tensors: ``W_enc`` (D, F), ``W_dec`` (F, D), ``b_enc`` (F,), ``b_dec`` (D,).
        activation: ``relu``, ``topk`` (with k), or ``tanh-relu``.
        normalize: ``none``, ``layer_norm`` or ``constant_norm_rescale``, applied to the input.

    Raises:
        FggError: an unknown activation or normalisation, a missing tensor, or shapes that do not fit.
    """
    from sae_lens import StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig

    names = ("W_enc", "W_dec", "b_enc", "b_dec")
    missing = [name for name in names if name not in tensors]
    if missing:
        raise FggError(f"the SAE lacks the tensors {', '.join(missing)}")
    width, features = tensors["W_enc"].shape
    shapes = {"W_enc": (width, features), "W_dec": (features, width), "b_enc": (features,), "b_dec": (width,)}
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise FggError(f"the SAE's {name} is {tuple(tensors[name].shape)}, expected {shape}")
    if normalize not in ("none", "layer_norm", "constant_norm_rescale"):
        raise FggError(f"the SAE's normalisation {normalize!r} is unknown")
    common: dict[str, Any] = {"d_in": width, "d_sae": features, "normalize_activations": normalize}
    if activation == "topk":
        if not k:
            raise FggError("a top-k SAE needs k")
        sae: Any = TopKSAE(TopKSAEConfig(**common, k=k, rescale_acts_by_decoder_norm=False))
    elif activation in ("relu", "tanh-relu"):
        sae = StandardSAE(StandardSAEConfig(**common))
    else:
        raise FggError(f"the SAE's activation {activation!r} is unknown; choose relu, topk or tanh-relu")
    sae.load_state_dict({name: tensors[name].detach().float().clone() for name in names})
    if activation == "tanh-relu":
        sae.activation_fn = nn.Sequential(nn.ReLU(), nn.Tanh())
    return sae
