"""The SAEs with which trainings start: one sae-lens training class per architecture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fgg.errors import FggError
from fgg.saes.activations import Rows
from fgg.saes.normalisation import SCALED

TOP_K = ("topk", "batchtopk", "matryoshka")
# "standard" is Bricken et al. 2023; topk Gao et al. 2024; batchtopk Bussmann et al. 2024; jumprelu Rajamanoharan et al.
# 2024; matryoshka Bussmann et al. 2025.
ARCHITECTURES = ("topk", "batchtopk", "matryoshka", "jumprelu", "standard")
LEVELS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # shares of the features in the nested dictionaries of a Matryoshka SAE


def initial(rows: Rows, settings: dict[str, Any], warmup: int, frozen: bool) -> Any:
    """The SAE as sae-lens draws it from PyTorch's global generator.

    Without whitening its b_dec is the rows' mean, which the features need not explain.

    Args:
        rows: what it will learn from.
        settings: the block ``sae.train``.
        warmup: steps in which the sparsity penalty rises.
        frozen: whether the decoder will be of unit vectors that stay as they are.

    Raises:
        FggError: k is larger than the number of features, or sae-lens cannot train such an SAE.
    """
    features = rows.width * settings["expansion"]
    common = {
        "d_in": rows.width,
        "d_sae": features,
        "normalize_activations": settings["normalize"],
        "device": str(rows.device),
        "dtype": "float32",
    }
    architecture = settings["architecture"]
    if architecture != "standard" and settings["k"] > features:
        raise FggError(f"sae.train.k: {settings['k']} is more than the {features} features")
    if architecture in TOP_K and settings["normalize"] == "layer_norm":
        raise FggError(
            f"sae.train.normalize: sae-lens cannot train the architecture {architecture} with layer_norm; choose another "
            "normalisation, or the architecture jumprelu or standard"
        )
    if architecture in TOP_K and frozen:
        common["rescale_acts_by_decoder_norm"] = False  # every row has length 1
    sae = _MAKERS[architecture](common, settings, warmup)
    if settings["normalize"] in ("none", SCALED):
        first = rows.first()
        norm = first.norm(dim=1).mean() / rows.width**0.5 if settings["normalize"] != "none" else 1.0
        sae.b_dec.data.copy_(first.mean(0) / norm)
    return sae


def _topk(common: dict[str, Any], settings: dict[str, Any], warmup: int) -> Any:
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig

    return TopKTrainingSAE(TopKTrainingSAEConfig(**common, k=settings["k"]))


def _batchtopk(common: dict[str, Any], settings: dict[str, Any], warmup: int) -> Any:
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

    return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**common, k=settings["k"]))


def _matryoshka(common: dict[str, Any], settings: dict[str, Any], warmup: int) -> Any:
    from sae_lens import MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig

    widths = sorted({max(1, round(share * common["d_sae"])) for share in LEVELS})
    config = MatryoshkaBatchTopKTrainingSAEConfig(**common, k=settings["k"], matryoshka_widths=widths)
    return MatryoshkaBatchTopKTrainingSAE(config)


def _jumprelu(common: dict[str, Any], settings: dict[str, Any], warmup: int) -> Any:
    """With the quadratic penalty, which draws L0 to k, so that k means the same as for the top-k architectures."""
    from sae_lens import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig

    config = JumpReLUTrainingSAEConfig(
        **common,
        jumprelu_sparsity_loss_mode="quadratic",
        target_l0=float(settings["k"]),
        l0_coefficient=settings["l0"],
        l0_warm_up_steps=warmup,
    )
    return JumpReLUTrainingSAE(config)


def _standard(common: dict[str, Any], settings: dict[str, Any], warmup: int) -> Any:
    from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig

    config = StandardTrainingSAEConfig(**common, l1_coefficient=settings["l1"], l1_warm_up_steps=warmup)
    return StandardTrainingSAE(config)


_MAKERS = {
    "topk": _topk,
    "batchtopk": _batchtopk,
    "matryoshka": _matryoshka,
    "jumprelu": _jumprelu,
    "standard": _standard,
}


def unit_decoder(features: int, width: int, seed: int) -> Tensor:
    """Random directions, float32 (F, D): rows of length 1, drawn from the seed."""
    drawn = torch.randn(features, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn / drawn.norm(dim=1, keepdim=True)).float()


@torch.no_grad()
def freeze(sae: Any, seed: int) -> None:
    """Give an SAE a random decoder of unit vectors that no optimiser changes; the encoder starts at its transpose."""
    sae.W_dec.copy_(unit_decoder(len(sae.W_dec), sae.W_dec.shape[1], seed))
    sae.W_enc.copy_(sae.W_dec.T)
    sae.W_dec.requires_grad_(False)


@torch.no_grad()
def unit_again(sae: Any, seed: int) -> None:
    """Move the scale that was folded into a frozen decoder to the codes: the same reconstruction, with unit vectors."""
    scale = sae.W_dec.norm(dim=1).mean()
    sae.W_enc.mul_(scale)
    sae.b_enc.mul_(scale)
    for name in ("threshold", "log_threshold", "topk_threshold"):
        if hasattr(sae, name):
            _scaled(getattr(sae, name), name, scale)
    sae.W_dec.copy_(unit_decoder(len(sae.W_dec), sae.W_dec.shape[1], seed))


def _scaled(values: Tensor, name: str, scale: Tensor) -> None:
    """Scale the threshold of a feature's activation, whose unit is that of the codes."""
    if name == "log_threshold":
        values.add_(scale.log())
    else:
        values.mul_(scale)
