"""SAEs whose normalisation of the activations is not folded into the weights.

sae-lens applies ``layer_norm`` and ``constant_norm_rescale`` while it encodes. The two others need statistics of the
training that the file does not hold: sae-lens would read such an SAE without a word and leave them out.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from fgg.errors import FggError

SCALED, WHITENED = "expected_average_only_in", "covariance_whitening"
SCALER_FILE = "activation_scaler.json"  # in a checkpoint of sae-lens' trainer


def unfolded(sae: Any) -> str | None:
    """The normalisation that an SAE needs and does not apply; None if there is none."""
    wanted = getattr(getattr(sae, "cfg", None), "normalize_activations", None)
    return wanted if wanted in (SCALED, WHITENED) else None


def check_folded(sae: Any, name: str) -> None:
    """Raise FggError if an SAE needs a normalisation that it does not apply; ``name`` says which SAE it is."""
    missing = unfolded(sae)
    if missing == SCALED:
        raise FggError(
            f"{name} was trained on activations scaled by a constant ({SCALED}) that is not folded into its weights; "
            "as sae.weights in a run of fgg it is estimated on the training images, or fold it in yourself with "
            "fold_activation_norm_scaling_factor of sae-lens, and save the SAE again"
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


def fold_estimated(sae: Any, rows: Tensor, batch: int) -> float:
    """Estimate the scaling factor on rows (n, D) as sae-lens does, sqrt(D) / mean norm, and fold it into the SAE's weights.

    Returns:
        The factor.
    """
    from sae_lens.training.activation_scaler import ActivationScaler

    parts = rows.split(batch)
    scaler = ActivationScaler()
    with without_bar():
        scaler.estimate_scaling_factor(rows.shape[1], iter(parts), len(parts))
    assert scaler.scaling_factor is not None
    sae.cfg.metadata.normalisation = SCALED
    sae.fold_activation_norm_scaling_factor(scaler.scaling_factor)
    return scaler.scaling_factor


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
