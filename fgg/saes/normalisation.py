"""SAEs whose normalisation of the activations is not folded into the weights.

sae-lens applies ``layer_norm`` and ``constant_norm_rescale`` while it encodes. The two others need statistics of the
training that the file does not hold: sae-lens would read such an SAE without a word and leave them out. saev and ViSAEBench
centre and scale the activations with such statistics; sae-lens knows no name for that, so the metadata has one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fgg.errors import FggError

SCALED, WHITENED = "expected_average_only_in", "covariance_whitening"
CENTRED, CENTRED_BY_NORM, CENTRED_BY_DEVIATION = "mean", "mean_and_norm", "mean_and_deviation"
CENTRINGS = (CENTRED, CENTRED_BY_NORM, CENTRED_BY_DEVIATION)
UNFOLDED = "unfolded"  # where the metadata names a centring that is not folded in
SCALER_FILE = "activation_scaler.json"  # in a checkpoint of sae-lens' trainer


def unfolded(sae: Any) -> str | None:
    """The normalisation that an SAE needs and does not apply; None if there is none."""
    config = getattr(sae, "cfg", None)
    wanted = getattr(config, "normalize_activations", None)
    centring = getattr(getattr(config, "metadata", None), UNFOLDED, None)
    return wanted if wanted in (SCALED, WHITENED) else (centring if centring in CENTRINGS else None)


def check_folded(sae: Any, name: str) -> None:
    """Raise FggError if an SAE needs a normalisation that it does not apply; ``name`` says which SAE it is."""
    missing = unfolded(sae)
    if missing == SCALED:
        raise FggError(
            f"{name} was trained on activations scaled by a constant ({SCALED}) that is not folded into its weights; "
            "as sae.weights in a run of fgg it is estimated on the training images, or fold it in yourself with "
            "fold_activation_norm_scaling_factor of sae-lens, and save the SAE again"
        )
    if missing in CENTRINGS:
        raise FggError(
            f"{name} was trained on activations that its library centred and scaled ({missing}), and the file does not hold "
            "the mean and the scale; as sae.weights in a run of fgg they are estimated on the training images; see "
            "docs/own-data.md for how to give them"
        )
    if missing:
        raise FggError(
            f"{name} was trained on whitened activations ({missing}), and the whitening is neither folded into its weights "
            "nor saved with them; save it with sae-lens after the training has ended, which folds it in"
        )


def fold_saved(sae: Any, folder: Path) -> None:
    """Fold in the statistics that a checkpoint of sae-lens' trainer has beside the weights, if it has them."""
    if unfolded(sae) is None or not (folder / SCALER_FILE).is_file():
        return
    from sae_lens.training.activation_scaler import ActivationScaler

    scaler = ActivationScaler()
    scaler.load(folder / SCALER_FILE)
    kind = sae.cfg.normalize_activations
    if kind == SCALED and scaler.scaling_factor is not None:
        sae.fold_activation_norm_scaling_factor(scaler.scaling_factor)
    elif kind == WHITENED and scaler.whitening is not None:
        own = scaler.whitening
        sae.fold_activation_whitening(own.mean, own.matrix, own.inverse_matrix)


def fold_estimated(sae: Any, parts: Iterable[Tensor], batch: int) -> float:
    """Estimate the scaling factor on rows as sae-lens does, sqrt(D) / mean norm, and fold it into the SAE's weights.

    Args:
        sae: the SAE, which changes.
        parts: the rows, each (n, D).
        batch: rows at once.

    Returns:
        The factor.
    """
    from sae_lens.training.activation_scaler import ActivationScaler

    total, count = 0.0, 0
    scaler = ActivationScaler()
    with without_bar():
        for rows in parts:
            own = rows.split(batch)
            scaler.estimate_scaling_factor(rows.shape[1], iter(own), len(own))
            assert scaler.scaling_factor is not None
            total += len(rows) / scaler.scaling_factor
            count += len(rows)
    factor = count / total
    sae.cfg.metadata.normalisation = SCALED
    sae.fold_activation_norm_scaling_factor(factor)
    return factor


def fold_centred(sae: Any, mean: Tensor, scale: float) -> None:
    """Fold (x - mean) / scale into a standard, top-k or JumpReLU SAE: it then reads x, and reconstructs x.

    Raises:
        FggError: mean (D,) and the scale do not fit the SAE, or are not finite.
    """
    width = sae.W_dec.shape[1]
    if tuple(mean.shape) != (width,) or not mean.isfinite().all() or not 0 < scale < float("inf"):
        raise FggError(
            f"the activations' mean {tuple(mean.shape)} and scale {scale:g} do not fit an SAE of width {width}"
        )
    mean = mean.to(sae.W_dec.device, sae.W_dec.dtype)
    with torch.no_grad():
        sae.W_enc /= scale
        sae.W_dec *= scale
        sae.b_dec.mul_(scale).add_(mean)
        if not sae.cfg.apply_b_dec_to_input:
            sae.b_enc -= mean @ sae.W_enc
    metadata = sae.cfg.metadata
    if (kind := getattr(metadata, UNFOLDED, None)) is not None:
        metadata.normalisation = kind
        delattr(metadata, UNFOLDED)


def fold_centring(sae: Any, rows: Callable[[], Iterable[Tensor]]) -> float:
    """Estimate the mean and the scale of an SAE's centring on rows, and fold them in.

    The scale is 1, the mean norm of what is left after centring over sqrt(D) (saev), or the root of its mean square over
    rows and dimensions (ViSAEBench).

    Args:
        sae: the SAE, which changes; `unfolded` names the kind.
        rows: a function that gives the rows in parts, each (n, D); called twice.

    Returns:
        The scale.
    """
    kind, count = unfolded(sae), 0
    total: Any = 0.0
    for part in rows():
        total, count = total + part.double().sum(0), count + len(part)
    mean, spread = total / count, 0.0
    for part in rows():
        left = part.double() - mean
        spread += float(left.norm(dim=1).sum() if kind == CENTRED_BY_NORM else left.square().sum() / len(mean))
    scale = 1.0
    if kind != CENTRED:
        scale = spread / count / len(mean) ** 0.5 if kind == CENTRED_BY_NORM else (spread / count) ** 0.5
    fold_centred(sae, mean.float(), scale)
    return scale


@contextlib.contextmanager
def without_bar() -> Iterator[None]:
    """Keep sae-lens from drawing bars of its own, which would fill a log with carriage returns."""
    from sae_lens.training import activation_scaler, sae_trainer

    modules: list[Any] = [activation_scaler, sae_trainer]
    theirs = [module.tqdm for module in modules]
    for module in modules:
        module.tqdm = functools.partial(module.tqdm, disable=True)
    try:
        yield
    finally:
        for module, bar in zip(modules, theirs, strict=True):
            module.tqdm = bar
