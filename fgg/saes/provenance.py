"""Where an SAE comes from: written into the metadata of its ``cfg.json``, and compared with where it is used.

The record holds no date and no path, so that the same settings give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fgg import __version__
from fgg.checksums import digest
from fgg.errors import FggError
from fgg.saes.place import RESIDUAL, UNCHECKED

VERSION_KEY = "fgg_version"
# What a folder that fgg writes says of the training; None where the SAE comes from elsewhere and does not say it.
TRAINING_KEYS = ("dataset", "split", "normalisation", "tokens_seen", "seed", "kind", "class_token", VERSION_KEY)
LOADED = "loaded"  # the kind of an SAE of another origin
SHOWN = 12  # hexadecimal digits of a hash


def metadata_of(sae: Any) -> dict[str, Any]:
    """What an SAE says about itself; empty for a user's own module."""
    found = getattr(getattr(sae, "cfg", None), "metadata", None)
    if isinstance(found, Mapping):
        return dict(found)
    return found.to_dict() if hasattr(found, "to_dict") else {}


def file_hash(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits. Raises OSError if it cannot be read."""
    return digest(path)


def model_record(architecture: str, folder: Path) -> dict[str, str]:
    """What identifies the model of a folder: its architecture, and the hash of its weights."""
    return {"architecture": architecture, "sha256": file_hash(folder / "model.safetensors")}


def check_model(metadata: Mapping[str, Any], layer: int, model: Mapping[str, str] | None, wanted: str) -> None:
    """Compare the model that an SAE names with the one it is used on.

    Args:
        metadata: what the SAE says about itself.
        layer: the layer at which it is used.
        model: `model_record` of the model, or None if its weights' hash is not known.
        wanted: ``unchecked`` for the user's word that it fits.

    Raises:
        FggError: the weights differ.
    """
    own = metadata.get("model")
    if model is None or wanted == UNCHECKED or not isinstance(own, Mapping) or not own.get("sha256"):
        return
    if own["sha256"] != model["sha256"]:
        raise FggError(
            f"sae.weights: the SAE for layer {layer} was made for the model {_name(own)}, but this model is "
            f"{_name(model)}; give an SAE of this model or sae.weights: train, or set sae.place: unchecked if both "
            "models are the same up to this layer"
        )


def _name(model: Mapping[str, Any]) -> str:
    return f"{model.get('architecture') or 'of unknown architecture'} (sha256 {str(model['sha256'])[:SHOWN]}…)"


def stamp(
    sae: Any, layer: int, place: str, model: Mapping[str, str], training: Mapping[str, Any] | None = None
) -> None:
    """Write an SAE's provenance into its metadata.

    What a loaded SAE says of its training stays. Where it says another place or another model than these, that stays
    under ``source``.

    Args:
        sae: a sae-lens SAE, whose ``cfg.metadata`` changes.
        layer: the layer whose end it reads.
        place: what `fgg.saes.place.check_place` found.
        model: `model_record` of the model.
        training: values of ``TRAINING_KEYS``, but the version; None for a loaded SAE.
    """
    before = metadata_of(sae)
    now: dict[str, Any] = {"hook_name": f"blocks.{layer}.{RESIDUAL}", "layer": layer, "model": dict(model)}
    differs = {key: before[key] for key, value in now.items() if before.get(key) not in (None, value)}
    if differs:
        now["source"] = before.get("source") or differs
    if training is None:
        foreign = {"normalisation": sae.cfg.normalize_activations, "kind": LOADED, VERSION_KEY: __version__}
        training = {**dict.fromkeys(TRAINING_KEYS), **({} if VERSION_KEY in before else foreign), **before}
    else:
        training = {**training, VERSION_KEY: __version__}
    now |= {"place": place, **{key: training[key] for key in TRAINING_KEYS}}
    for key, value in now.items():
        setattr(sae.cfg.metadata, key, value)


def other_dataset(metadata: Mapping[str, Any], dataset: str) -> str | None:
    """What a log says if an SAE was trained on another dataset; None if it was not, or does not say."""
    own = metadata.get("dataset") if VERSION_KEY in metadata else None
    return (
        f"the SAE was trained on the dataset {own!r}, and is used on {dataset!r}"
        if own not in (None, dataset)
        else None
    )
