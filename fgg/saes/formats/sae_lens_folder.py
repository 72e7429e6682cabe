"""sae-lens folders, as ``SAE.save_inference_model`` writes them and ``SAE.load_from_disk`` reads them.

Folders of sae-lens' trainer are read too: batch-top-k SAEs become JumpReLU SAEs, as sae-lens itself makes of them. What
sae-lens would drop without a word, such as another activation, is computed or refused.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from fgg.data.settings_files import read_settings
from fgg.errors import FggError, names
from fgg.models.checkpoints import UNREADABLE, first_line
from fgg.saes.formats.registry import sae_format
from fgg.saes.normalisation import SCALER_FILE, fold_saved
from fgg.saes.sae import SAE_FILES

BATCH_TOP_K = ("batchtopk", "matryoshka_batchtopk")
TANH = "tanh-relu"
# The activations that each architecture computes; a folder that names another one means something else.
ACTIVATIONS = {
    "standard": ("relu", TANH),
    "gated": ("relu",),
    "jumprelu": ("relu", "jumprelu"),
    "topk": ("relu", "topk"),
    **dict.fromkeys(BATCH_TOP_K, ("relu", "topk", "batchtopk")),
}
# What no place of the residual stream can have, and why.
REFUSED = {
    "temporal": "its codes of a token depend on the tokens before it, and its decoder leaves out what they predict",
}
FLAGS = (
    "apply_b_dec_to_input",
    "rescale_acts_by_decoder_norm",
    "finetuning_scaling_factor",
    "stop_on_duplicate_support",
)
FLOATS = ("F64", "F32", "F16", "BF16")
HOOK_KEYS = ("hook_name", "hook_point")
LAYER_KEYS = ("hook_layer", "hook_point_layer")


@sae_format(name="sae-lens folder", files="cfg.json and sae_weights.safetensors", place=1)
def sae_lens_folder(path: Path) -> Any | None:
    """Load the SAE of a sae-lens folder, or of the file of weights in it.

    Raises:
        FggError: its files are damaged, it holds a transcoder, or something that sae-lens does not know or would drop.
    """
    if path.name == SAE_FILES[1] and path.is_file():
        path = path.parent
    if not all((path / name).is_file() for name in SAE_FILES):
        return None
    try:
        config = _config(path / SAE_FILES[0])
        architecture, activation = _kind(config)
        _check_flags(config)
        _check_types(path / SAE_FILES[1])
        _check_scaler(path / SCALER_FILE)
        if architecture in BATCH_TOP_K:
            sae = _jumprelu(path, config, architecture)
        else:
            sae = _load(path)
        fold_saved(sae, path)
    except FggError as error:
        raise FggError(f"sae.weights: {path}: {error}") from None
    except (*UNREADABLE, OverflowError) as error:
        raise FggError(f"sae.weights: {path} cannot be read as a sae-lens SAE ({first_line(error)})") from None
    if activation == TANH:
        sae.activation_fn = nn.Sequential(nn.ReLU(), nn.Tanh())
    _keep_place(sae, config)
    return sae


def _config(file: Path) -> dict[str, Any]:
    """The settings of an SAE. Raises ValueError: there are none."""
    try:
        return read_settings(file)
    except FggError as error:
        raise ValueError(str(error)) from None


def _check_flags(config: Mapping[str, Any]) -> None:
    """Raise FggError for a setting that is to be true or false and is neither, and for heads in place of a stream."""
    for name in FLAGS:
        if not isinstance(config.get(name), bool | None):
            raise FggError(f"{SAE_FILES[0]}: {name} must be true or false, not {config[name]!r}")
    if config.get("reshape_activations") not in (None, "none"):
        raise FggError(
            f"reshape_activations is {config['reshape_activations']!r}: it was trained on the outputs of heads; give an SAE "
            "of the residual stream"
        )


def _check_types(file: Path) -> None:
    """Raise FggError for weights in another type than floats of at least two bytes, which sae-lens would convert."""
    with safe_open(file, "pt") as opened:
        types = {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118 - no mapping
    if wrong := [f"{name} ({kind})" for name, kind in types.items() if kind not in FLOATS]:
        raise FggError(f"holds quantised numbers in place of weights in {names(wrong)}; save the SAE as float32")


def _check_scaler(file: Path) -> None:
    """Raise FggError if a file of statistics, which sae-lens will read, holds no scale."""
    found = read_settings(file).get("scaling_factor") if file.is_file() else None
    if found is not None and (
        isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < float("inf")
    ):
        raise FggError(f"{file.name}: scaling_factor must be a number above 0, not {found!r}")


def _load(path: Path) -> Any:
    from sae_lens import SAE

    return SAE.load_from_disk(path, device="cpu", dtype="float32")


def _kind(config: Mapping[str, Any]) -> tuple[str, str]:
    """The architecture and the activation of a configuration.

    Raises:
        FggError: fgg cannot use such an SAE.
        TypeError, ValueError: it is not a configuration of sae-lens.
    """
    architecture = str(config.get("architecture") or "standard")
    _check_transcoder(config, architecture)
    if architecture in REFUSED:
        raise FggError(f"an SAE of the architecture {architecture!r} cannot be used here: {REFUSED[architecture]}")
    activation = config.get("activation_fn") or config.get("activation_fn_str")
    name = activation.lower().replace("_", "-") if isinstance(activation, str) else ""
    k = _k(config)
    if name == "topk" and architecture == "standard" and k is not None:
        architecture = "topk"  # as sae-lens reads the folders of its versions before 6
        if _version(config) >= (6,):
            raise FggError("the activation topk belongs to the architecture topk, not to standard; correct cfg.json")
    known = ACTIVATIONS.get(architecture)
    if known and name and name not in known:
        raise FggError(
            f"the activation {activation!r} is not one of the architecture {architecture!r} ({', '.join(known)}); save the "
            "SAE as what it is"
        )
    features = config.get("d_sae")
    if isinstance(features, int) and features < 1:
        raise FggError(f"d_sae is {features}; an SAE needs at least one feature")
    if architecture in ("topk", "abstopk"):
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise FggError(f"a top-k SAE needs k, a whole number of at least 1, in cfg.json; found {k!r}")
        if isinstance(features, int) and k > features:
            raise FggError(f"k is {k}, more than its {features} features; correct cfg.json")
    return architecture, name


def _check_transcoder(config: Mapping[str, Any], architecture: str) -> None:
    metadata = config.get("metadata") if isinstance(config.get("metadata"), Mapping) else {}
    both = {**config, **(metadata or {})}
    hook, out = both.get("hook_name"), both.get("hook_name_out")
    elsewhere = (out is not None and out != hook) or both.get("d_out") not in (None, both.get("d_in"))
    if "transcoder" in architecture or "crosscoder" in architecture or both.get("is_transcoder") is True or elsewhere:
        places = f" ({hook} to {out})" if hook and out else ""
        raise FggError(
            f"this is a transcoder, which maps one place of a model to another{places}; give an SAE, which reconstructs the "
            "place that it reads"
        )


def _k(config: Mapping[str, Any]) -> Any:
    kwargs = config.get("activation_fn_kwargs")
    return config.get("k", kwargs.get("k") if isinstance(kwargs, Mapping) else None)


def _version(config: Mapping[str, Any]) -> tuple[int, ...]:
    """The main version of sae-lens that wrote a configuration; empty if it does not say."""
    metadata = config.get("metadata")
    said = config.get("sae_lens_version") or (
        metadata.get("sae_lens_version") if isinstance(metadata, Mapping) else None
    )
    first = str(said or "").split(".")[0]
    return (int(first),) if first.isdigit() else ()


def _jumprelu(path: Path, config: Mapping[str, Any], architecture: str) -> Any:
    """A batch-top-k SAE of sae-lens' trainer as the JumpReLU SAE that sae-lens saves for use.

    Raises:
        FggError: there is no threshold.
        KeyError, RuntimeError, ValueError: the tensors do not fit.
    """
    from sae_lens.registry import get_sae_training_class

    tensors = {name: tensor.float() for name, tensor in load_file(path / SAE_FILES[1]).items()}
    if not len(tensors["W_dec"]):
        raise FggError("it has no features; an SAE needs at least one")
    threshold = tensors.pop("threshold", tensors.get("topk_threshold"))
    if threshold is None:
        raise FggError(
            "a batch-top-k SAE needs the threshold that its training found (topk_threshold), and this folder has none; "
            "save it again with sae-lens"
        )
    # k and the widths of the levels matter for the training alone.
    levels = config.get("matryoshka_widths")
    sae_class, config_class = get_sae_training_class(architecture if levels else BATCH_TOP_K[0])
    own = {"k": 1, **config, "architecture": config_class.architecture(), "device": "cpu", "dtype": "float32"}
    own["normalize_activations"] = own.get("normalize_activations") or "none"
    per_feature = threshold.numel() > 1
    tensors["topk_threshold"] = torch.zeros(()) if per_feature else threshold.reshape(())
    sae = sae_class(config_class.from_dict(own))
    sae.load_state_dict(tensors)
    fold_saved(sae, path)
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        made = _load(Path(folder))
    if per_feature:
        if threshold.shape != made.threshold.shape:
            raise ValueError(f"threshold is {tuple(threshold.shape)}, expected {tuple(made.threshold.shape)}")
        made.threshold.data.copy_(threshold)
    return made


def _keep_place(sae: Any, config: Mapping[str, Any]) -> None:
    """Keep the hook and the layer of older folders, and the metadata of folders that name no version: sae-lens drops them."""
    metadata = sae.cfg.metadata
    said = config.get("metadata")
    for name, value in (said if isinstance(said, Mapping) else {}).items():
        if metadata.get(name) is None:
            metadata[name] = value
    hook = next((config[key] for key in HOOK_KEYS if config.get(key)), None)
    layer = next((config[key] for key in LAYER_KEYS if isinstance(config.get(key), int)), None)
    if hook and not metadata.hook_name:
        metadata.hook_name = str(hook)
    if layer is not None and metadata.layer is None:
        metadata.layer = layer
