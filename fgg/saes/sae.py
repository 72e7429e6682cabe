"""Load sparse autoencoders of the residual stream as sae-lens SAEs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fgg.data.locations import locate
from fgg.errors import FggError
from fgg.saes.formats.registry import sae_formats

SAE_FILES = ("cfg.json", "sae_weights.safetensors")
TENSORS = {
    "standard": ("W_enc", "W_dec", "b_enc", "b_dec"),
    "gated": ("W_enc", "W_dec", "b_gate", "r_mag", "b_mag", "b_dec"),
}
HOOK = re.compile(r"blocks\.(\d+)\.(\w+)")
RESIDUAL = "hook_resid_post"


def load_sae(path: str | Path) -> Any:
    """Load an SAE in any format of `fgg.saes.formats`.

    The path may contain ``*``, ``?`` and ``**`` if exactly one file or folder matches.

    Returns:
        A ``sae_lens.SAE`` in float32 on the CPU, with ``encode`` (…, D) to (…, F), ``decode``, and ``W_dec`` (F, D).

    Raises:
        FggError: the path does not exist, its format is unknown, files are damaged, or weights are not finite.
    """
    path = locate(path, "sae.weights")
    if not path.exists():
        raise FggError(f"sae.weights: {path} does not exist; check the path, or set 'train' to train an SAE")
    found = (known.declaration.load()(path) for known in sae_formats())
    sae = next((own for own in found if own is not None), None)
    if sae is None:
        known = "; ".join(f"{own.name}: {own.files}" for own in sae_formats())
        raise FggError(f"sae.weights: {path} is in none of the formats that fgg reads ({known})")
    for name, tensor in sae.state_dict().items():
        if not tensor.isfinite().all():
            raise FggError(f"sae.weights: {path} holds NaN or infinite values in {name}")
    return sae.eval().requires_grad_(False)


def check_sae(sae: Any, model: VisionTransformer, layer: int) -> None:
    """Raise FggError if the SAE's width is not the residual stream's, or it names a hook other than the layer's end."""
    if not hasattr(sae, "W_dec"):
        raise FggError(f"the SAE for layer {layer} is a {type(sae).__name__}; load it with fgg.load_sae")
    width = sae.W_dec.shape[-1]
    if width != model.embed_dim:
        raise FggError(
            f"the SAE for layer {layer} has width {width}, but the model's residual stream has {model.embed_dim}; "
            "it was trained on another model"
        )
    _check_place(sae, layer)


def _check_place(sae: Any, layer: int) -> None:
    metadata = getattr(getattr(sae, "cfg", None), "metadata", None) or {}  # a user's own module has none
    hook = str(metadata.get("hook_name") or "")
    place = HOOK.fullmatch(hook)
    if place and (int(place[1]), place[2]) != (layer, RESIDUAL):
        raise FggError(
            f"sae.weights: the SAE for layer {layer} was trained on {hook}, not on blocks.{layer}.{RESIDUAL}; check "
            "the path and its {layer}, or use the SAE at its own layer"
        )


def build_sae(
    tensors: dict[str, Tensor],
    activation: str = "relu",
    normalize: str = "none",
    k: int | None = None,
    architecture: str = "standard",
) -> Any:
    """Build a sae-lens SAE from weights.

    With x the normalised input minus b_dec, a standard SAE's codes are act(x W_enc + b_enc). A gated one (Rajamanoharan
    et al. 2024) has codes of max(x (W_enc * exp(r_mag)) + b_mag, 0) where x W_enc + b_gate is above 0, and 0 elsewhere.

    Args:
        tensors: ``W_enc`` (D, F), ``W_dec`` (F, D), ``b_dec`` (D,), and ``b_enc`` (F,), or for a gated SAE ``b_gate``,
            ``r_mag`` and ``b_mag`` (F,).
        activation: ``relu``, ``topk`` (with k), or ``tanh-relu``; for a gated SAE ``relu``.
        normalize: ``none``, ``layer_norm`` or ``constant_norm_rescale``, applied to the input.
        architecture: ``standard`` or ``gated``.

    Raises:
        FggError: an unknown architecture, activation or normalisation, a missing tensor, or shapes that do not fit.
    """
    from sae_lens import GatedSAE, GatedSAEConfig, StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig

    if architecture not in TENSORS:
        raise FggError(f"the SAE's architecture {architecture!r} is unknown; choose {' or '.join(TENSORS)}")
    missing = [name for name in TENSORS[architecture] if name not in tensors]
    if missing:
        raise FggError(f"the SAE lacks the tensors {', '.join(missing)}")
    width, features = tensors["W_enc"].shape
    shapes = {"W_enc": (width, features), "W_dec": (features, width), "b_dec": (width,)}
    for name in TENSORS[architecture]:
        shape = shapes.get(name, (features,))
        if tuple(tensors[name].shape) != shape:
            raise FggError(f"the SAE's {name} is {tuple(tensors[name].shape)}, expected {shape}")
    if normalize not in ("none", "layer_norm", "constant_norm_rescale"):
        raise FggError(f"the SAE's normalisation {normalize!r} is unknown")
    common: dict[str, Any] = {"d_in": width, "d_sae": features, "normalize_activations": normalize}
    if architecture == "gated":
        if activation != "relu":
            raise FggError(f"a gated SAE has the activation relu, not {activation!r}")
        sae: Any = GatedSAE(GatedSAEConfig(**common))
    elif activation == "topk":
        if not k:
            raise FggError("a top-k SAE needs k")
        sae = TopKSAE(TopKSAEConfig(**common, k=k, rescale_acts_by_decoder_norm=False))
    elif activation in ("relu", "tanh-relu"):
        sae = StandardSAE(StandardSAEConfig(**common))
    else:
        raise FggError(f"the SAE's activation {activation!r} is unknown; choose relu, topk or tanh-relu")
    sae.load_state_dict({name: tensors[name].detach().float().clone() for name in TENSORS[architecture]})
    if activation == "tanh-relu":
        sae.activation_fn = nn.Sequential(nn.ReLU(), nn.Tanh())
    return sae
