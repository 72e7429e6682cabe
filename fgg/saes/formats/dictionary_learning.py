"""Folders of dictionary_learning (Marks, Karvonen and Mueller 2024): ``ae.pt`` and ``config.json``.

As the library's ``load_dictionary`` does, an AutoEncoder's decoder is scaled to unit norm, and its encoder with it; batch
variants use the threshold of training. ``trainSAE`` folds the norm by which it divides the activations (``norm_factor``)
into the biases before it saves, so that the SAE reads the activations as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fgg.data.settings_files import read_settings
from fgg.errors import FggError
from fgg.saes.formats.registry import sae_format
from fgg.saes.formats.torch_files import (
    check_one_place,
    check_size,
    dense,
    keep_place,
    matrix,
    named,
    per_feature,
    read_weights,
    whole,
)
from fgg.saes.sae import TENSORS, build_sae

CONFIG_FILE = "config.json"
FILE = re.compile(r"ae(_\d+)?\.pt")
ENCODER = ("encoder.weight", "decoder.weight")
# Per class: the tensors that it must hold, others that it may hold, and fgg's name of each.
LINEAR = {"encoder.weight": "W_enc", "decoder.weight": "W_dec", "encoder.bias": "b_enc"}
PLAIN = {name: name for name in TENSORS["standard"]}
LAYOUTS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "AutoEncoder": ({**LINEAR, "bias": "b_dec"}, ()),
    "AutoEncoderNew": ({**LINEAR, "decoder.bias": "b_dec"}, ()),
    "GatedAutoEncoder": (
        {"encoder.weight": "W_enc", "decoder.weight": "W_dec", "r_mag": "r_mag"}
        | {"gate_bias": "b_gate", "mag_bias": "b_mag", "decoder_bias": "b_dec"},
        (),
    ),
    "JumpReluAutoEncoder": ({**PLAIN, "threshold": "threshold"}, ()),
    "AutoEncoderTopK": ({**LINEAR, "b_dec": "b_dec"}, ("k", "threshold")),
    "BatchTopKSAE": ({**LINEAR, "b_dec": "b_dec", "threshold": "threshold"}, ("k",)),
    "MatryoshkaBatchTopKSAE": ({**PLAIN, "threshold": "threshold"}, ("k", "group_sizes")),
}
BATCH_TOP_K = ("BatchTopKSAE", "MatryoshkaBatchTopKSAE")
# Names that say that the activations were normalised in a way that may not be in the weights.
NORMALISES = re.compile(
    r"(normali[sz]e_)?activations?(_norm(ali[sz]ation)?(_factor)?|_mean|_scale|_std)?|act_(norm|mean|scale|std)"
)


@sae_format(name="dictionary_learning folder", files="ae.pt and config.json", place=200)
def dictionary_learning(path: Path) -> Any | None:
    """Load a dictionary of dictionary_learning: its folder, or ae.pt in it, or a checkpoint ae_STEP.pt beside config.json.

    Raises:
        FggError: files are missing or damaged, the class is unknown, or the SAE maps one place to another.
    """
    file = path / "ae.pt" if path.is_dir() else path
    if not file.is_file() or not FILE.fullmatch(file.name):
        return None
    with named(file):
        places = (file.parent, file.parent.parent)  # trainSAE puts checkpoints into a folder of their own
        config = next((each / CONFIG_FILE for each in places if (each / CONFIG_FILE).is_file()), None)
        if config is None:
            raise FggError(f"there is no {CONFIG_FILE} beside it, which names the class of the dictionary")
        return _build(read_settings(config), read_weights(file))


def _build(config: Mapping[str, Any], content: Any) -> Any:
    trainer, buffer = config.get("trainer"), config.get("buffer")
    if not isinstance(trainer, Mapping):
        raise FggError(f"{CONFIG_FILE} has no settings of the trainer")
    buffer = buffer if isinstance(buffer, Mapping) else {}
    check_one_place(config, trainer, buffer)
    if buffer.get("io") not in (None, "in", "out"):
        raise FggError(
            f"it was trained on {buffer['io']!r} of a module: a transcoder, which maps one place of a model to another; "
            "give an SAE"
        )
    kind = trainer.get("dict_class")
    if kind not in LAYOUTS:
        raise FggError(f"the class {kind!r} is not supported; fgg reads {', '.join(LAYOUTS)}")
    for part in (config, trainer, buffer):
        stated = {
            key: part[key] for key in part if NORMALISES.fullmatch(str(key)) and part[key] not in (None, False, "none")
        }
        if stated and "norm_factor" not in trainer:
            raise FggError(
                f"{CONFIG_FILE} says {stated}, and fgg cannot tell whether that is in the weights; fold it in with "
                "scale_biases, as trainSAE does, and remove the key"
            )
    tensors = _tensors(kind, content)
    features, width = tensors["W_dec"].shape
    check_size(trainer, {"activation_dim": width, "dict_size": features})
    options: dict[str, Any] = {"subtract_b_dec": kind not in ("AutoEncoderNew", "JumpReluAutoEncoder")}
    if kind == "AutoEncoder":
        _normalise_decoder(tensors)
    if "TopK" in kind:
        k = _k(trainer, content, features)
    if kind == "AutoEncoderTopK":
        options |= {"activation": "topk", "k": k}
    elif "threshold" in LAYOUTS[kind][0]:
        tensors["threshold"] = per_feature(tensors, "threshold", features)
        if kind in BATCH_TOP_K and (tensors["threshold"] < 0).any():
            raise FggError("its batch-top-k threshold was never set; train it beyond threshold_start_step")
        options["architecture"] = "jumprelu"
    elif kind == "GatedAutoEncoder":
        options["architecture"] = "gated"
    return keep_place(build_sae(tensors, **options), _place(trainer, buffer))


def _tensors(kind: str, content: Any) -> dict[str, Tensor]:
    """The tensors of a class under fgg's names, W_enc as (D, F) and W_dec as (F, D)."""
    names, other = LAYOUTS[kind]
    found = dense(content, tuple(names), other)
    for name in ENCODER if "encoder.weight" in names else ("W_enc", "W_dec"):
        matrix(found, name)
    return {ours: found[name].T if name in ENCODER else found[name] for name, ours in names.items()}


def _normalise_decoder(tensors: dict[str, Tensor]) -> None:
    """Scale the decoder to unit norm, and the encoder by its norms, unless it has unit norm as far as torch tells."""
    norms = tensors["W_dec"].norm(dim=1)
    if torch.allclose(norms, torch.ones_like(norms)):
        return
    if not norms.all():
        raise FggError("a feature has a decoder of zeros, by which the library divides; remove the feature")
    tensors["W_dec"] = tensors["W_dec"] / norms[:, None]
    tensors["W_enc"], tensors["b_enc"] = tensors["W_enc"] * norms, tensors["b_enc"] * norms


def _k(trainer: Mapping[str, Any], content: Mapping[str, Any], features: int) -> int:
    stored = int(content["k"]) if "k" in content else None
    k = whole(trainer.get("k", stored), "k")
    if stored not in (None, k):
        raise FggError(f"k is {k} in {CONFIG_FILE}, but {stored} in the weights")
    if k > features:
        raise FggError(f"k is {k}, more than its {features} features")
    return k


def _place(trainer: Mapping[str, Any], buffer: Mapping[str, Any]) -> dict[str, Any]:
    """The layer, and the hook if the submodule is named: the input of the residual stream's module is its start."""
    module, layer = trainer.get("submodule_name"), trainer.get("layer")
    place = {"layer": layer}
    if isinstance(module, str) and module:
        own = re.fullmatch(r"(mlp|attn|attention)(_out)?(_layer)?_(\d+)", module)
        place["hook_name"] = f"blocks.{own[4]}.{own[1]}" if own else module
        if buffer.get("io") == "in" and re.fullmatch(r"resid_post(_layer)?_\d+", module):
            place["hook_name"] = f"blocks.{layer}.hook_resid_pre"
    return place
