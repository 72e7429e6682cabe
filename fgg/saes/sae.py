"""Load sparse autoencoders of the residual stream as sae-lens SAEs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fgg.checksums import check
from fgg.data.locations import locate
from fgg.errors import FggError, names
from fgg.saes.formats.registry import sae_formats
from fgg.saes.normalisation import check_folded
from fgg.saes.place import CHECKED, check_place
from fgg.saes.provenance import check_model, metadata_of

SAE_FILES = ("cfg.json", "sae_weights.safetensors")
TENSORS = {
    "standard": ("W_enc", "W_dec", "b_enc", "b_dec"),
    "gated": ("W_enc", "W_dec", "b_gate", "r_mag", "b_mag", "b_dec"),
    "jumprelu": ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"),
    "matching_pursuit": ("W_dec", "b_dec"),
}


def load_sae(path: str | Path) -> Any:
    """Load an SAE in any format of `fgg.saes.formats`.

    The path may contain ``*``, ``?`` and ``**`` if exactly one file or folder matches.

    Returns:
        A ``sae_lens.SAE`` in float32 on the CPU, with ``encode`` (…, D) to (…, F), ``decode``, and ``W_dec`` (F, D).

    Raises:
        FggError: the path does not exist, its format is unknown, files are damaged, weights are not finite, it holds a
            transcoder, or it needs a normalisation that is not folded into its weights.
    """
    sae = read_sae(path)
    check_folded(sae, f"sae.weights: the SAE {path}")
    return sae


def read_sae(path: str | Path) -> Any:
    """Like `load_sae`, but an SAE that needs a normalisation that is not folded into its weights is not refused."""
    if not isinstance(path, str | Path):
        raise FggError(f"sae.weights: {path!r} must be a path")
    if "://" in str(path):
        raise FggError(
            f"sae.weights: {path} is an address, which only a run of the workflow downloads; give a path here"
        )
    path = locate(path, "sae.weights")
    if not path.exists():
        raise FggError(f"sae.weights: {path} does not exist; check the path, or set 'train' to train an SAE")
    for name in SAE_FILES:
        check(path / name)
    found = (known.declaration.load()(path) for known in sae_formats())
    sae = next((own for own in found if own is not None), None)
    if sae is None:
        known = "; ".join(f"{own.name}: {own.files}" for own in sae_formats())
        raise FggError(f"sae.weights: {path} is in none of the formats that fgg reads ({known})")
    for name, tensor in sae.state_dict().items():
        if not tensor.isfinite().all():
            raise FggError(f"sae.weights: {path} holds NaN or infinite values in {name}")
    return sae.eval().requires_grad_(False)


def load_for(path: str | Path, model: VisionTransformer, layer: int, weights: Mapping[str, str] | None = None) -> Any:
    """Load an SAE for a layer of a model, onto the model's device. Raises the errors of `load_sae` and `check_sae`."""
    sae = load_sae(path).to(next(model.parameters()).device)
    check_sae(sae, model, layer, weights)
    return sae


def check_sae(
    sae: Any,
    model: VisionTransformer,
    layer: int,
    weights: Mapping[str, str] | None = None,
    place: str = CHECKED,
    folded: bool = True,
) -> str:
    """Check that an SAE fits the residual stream at the end of a layer, as far as it says what it was made for.

    Args:
        sae: a sae-lens SAE.
        model: the model on which it is to be used.
        layer: the block at whose end it is to be used.
        weights: `fgg.saes.provenance.model_record` of the model; None if the hash of its weights is not known.
        place: ``checked``, or ``unchecked`` for the user's word that place and model fit.
        folded: refuse an SAE whose normalisation is not folded into its weights.

    Returns:
        ``checked``; ``unchecked``; or ``unknown`` if the SAE names no place that can be understood.

    Raises:
        FggError: it is a transcoder, its decoder is no finite matrix, its width is another one, or it names another place or
            another model's weights.
    """
    if not hasattr(sae, "W_dec"):
        raise FggError(f"the SAE for layer {layer} is a {type(sae).__name__}; load it with fgg.load_sae")
    if "transcoder" in type(sae).__name__.lower():
        raise FggError(
            f"the SAE for layer {layer} is a {type(sae).__name__}, which maps one place of a model to another; give an "
            "SAE, which reconstructs the place that it reads"
        )
    width = _decoder(sae, layer).shape[-1]
    if width != model.embed_dim:
        raise FggError(
            f"the SAE for layer {layer} has width {width}, but the model's residual stream has {model.embed_dim}; "
            "it was trained on another model: give an SAE of this one"
        )
    if folded:
        check_folded(sae, f"the SAE for layer {layer}")
    metadata = metadata_of(sae)
    found = check_place(metadata, layer, len(model.blocks), place)
    check_model(metadata, layer, weights, place)
    return found


def _decoder(sae: Any, layer: int) -> Tensor:
    """W_dec as a tensor. Raises FggError if it is no matrix of finite real numbers."""
    try:
        decoder = torch.as_tensor(sae.W_dec)
    except (TypeError, ValueError, RuntimeError):
        decoder = torch.empty(())
    if decoder.ndim != 2 or decoder.is_complex():
        what = type(sae.W_dec).__name__ if not decoder.ndim else f"{decoder.dtype} {tuple(decoder.shape)}"
        raise FggError(f"the SAE for layer {layer} has {what} as W_dec; give a float tensor (features, width)")
    values = decoder.detach() if decoder.layout == torch.strided else decoder.detach().to_dense()
    if not values.is_meta and not values.isfinite().all():
        raise FggError(f"the SAE for layer {layer} has NaN or infinite values in W_dec; load its weights again")
    return decoder


def _is_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and torch.finfo(tensor.dtype).bits >= 16


def build_sae(
    tensors: dict[str, Tensor],
    activation: str = "relu",
    normalize: str = "none",
    k: int | None = None,
    architecture: str = "standard",
    subtract_b_dec: bool = True,
) -> Any:
    """Build a sae-lens SAE from weights.

    With x the normalised input minus b_dec, a standard SAE's codes are act(x W_enc + b_enc). A JumpReLU one keeps those
    of relu(x W_enc + b_enc) that lie above the feature's threshold. A gated one (Rajamanoharan et al. 2024) has codes of
    max(x (W_enc * exp(r_mag)) + b_mag, 0) where x W_enc + b_gate is above 0, and 0 elsewhere. Matching pursuit takes k
    times the feature with the largest product with what is left of x, and subtracts it.

    Args:
        tensors: ``W_enc`` (D, F), ``W_dec`` (F, D), ``b_dec`` (D,), and ``b_enc`` (F,), for a JumpReLU SAE ``threshold``
            (F,) too; for a gated SAE ``b_gate``, ``r_mag`` and ``b_mag`` (F,) in place of ``b_enc``; for matching pursuit
            ``W_dec`` and ``b_dec`` alone.
        activation: ``relu``, ``topk`` (with k), or ``tanh-relu``; of a standard SAE only, others have ``relu``.
        normalize: ``none``, ``layer_norm`` or ``constant_norm_rescale``, applied to the input.
        k: of top-k, and the number of steps of matching pursuit.
        architecture: ``standard``, ``gated``, ``jumprelu`` or ``matching_pursuit``.
        subtract_b_dec: whether x is the input minus b_dec, or the input itself.

    Raises:
        FggError: an unknown architecture, activation or normalisation, a missing tensor, shapes that do not fit, no feature, or k > F.
    """
    import sae_lens

    if architecture not in TENSORS:
        raise FggError(f"the SAE's architecture {architecture!r} is unknown; choose {' or '.join(TENSORS)}")
    missing = [name for name in TENSORS[architecture] if name not in tensors]
    if missing:
        raise FggError(f"the SAE lacks the tensors {', '.join(missing)}")
    if whole := [name for name in TENSORS[architecture] if not _is_float(tensors[name])]:
        raise FggError(f"the SAE holds quantised numbers in place of weights in {names(whole)}; save it as float32")
    features, width = tensors["W_dec"].shape if "W_enc" not in tensors else tensors["W_enc"].T.shape
    shapes = {"W_enc": (width, features), "W_dec": (features, width), "b_dec": (width,)}
    for name in TENSORS[architecture]:
        shape = shapes.get(name, (features,))
        if tuple(tensors[name].shape) != shape:
            raise FggError(f"the SAE's {name} is {tuple(tensors[name].shape)}, expected {shape}")
    if not width or not features:
        raise FggError(f"the SAE has {features} features of width {width}; an SAE needs at least one of both")
    if normalize not in ("none", "layer_norm", "constant_norm_rescale"):
        raise FggError(f"the SAE's normalisation {normalize!r} is unknown")
    if activation not in ("relu", "topk", "tanh-relu"):
        raise FggError(f"the SAE's activation {activation!r} is unknown; choose relu, topk or tanh-relu")
    if architecture != "standard" and activation != "relu":
        raise FggError(f"a {architecture} SAE has the activation relu, not {activation!r}")
    common: dict[str, Any] = {"d_in": width, "d_sae": features, "normalize_activations": normalize}
    common["apply_b_dec_to_input"] = subtract_b_dec
    if activation == "topk" or architecture == "matching_pursuit":
        if not k:
            raise FggError("a top-k SAE needs k" if activation == "topk" else "matching pursuit needs k")
        if k > features and activation == "topk":
            raise FggError(f"a top-k SAE with k = {k} needs more than its {features} features")
    if architecture == "gated":
        sae: Any = sae_lens.GatedSAE(sae_lens.GatedSAEConfig(**common))
    elif architecture == "jumprelu":
        sae = sae_lens.JumpReLUSAE(sae_lens.JumpReLUSAEConfig(**common))
    elif architecture == "matching_pursuit":
        stopping = {"max_iterations": k, "residual_threshold": 0.0, "stop_on_duplicate_support": False}
        sae = sae_lens.MatchingPursuitSAE(sae_lens.MatchingPursuitSAEConfig(**common, **stopping))
    elif activation == "topk":
        sae = sae_lens.TopKSAE(sae_lens.TopKSAEConfig(**common, k=k, rescale_acts_by_decoder_norm=False))
    else:
        sae = sae_lens.StandardSAE(sae_lens.StandardSAEConfig(**common))
    sae.load_state_dict({name: tensors[name].detach().float().clone() for name in TENSORS[architecture]})
    if activation == "tanh-relu":
        sae.activation_fn = nn.Sequential(nn.ReLU(), nn.Tanh())
    return sae
