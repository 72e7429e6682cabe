"""SAEs of ViSAEBench: ``sae.pt``, ``model.safetensors`` or ``model.pt``, with ``config.json`` or ``config.yaml``.

The weights have plain names, or those of overcomplete. Codes are relu(x W_enc + b_enc), of which top-k, those at or above
a threshold (batch-top-k), or those above a threshold per feature (JumpReLU) stay. What ViSAEBench takes for a missing
threshold is no result of the training, and is refused.

ViSAEBench gives its SAEs the activations minus their mean per dimension over one standard deviation. The checkpoint holds
neither; ``norm_stats.pt``, which it writes beside its cached activations, does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fgg.data.settings_files import read_settings
from fgg.errors import FggError
from fgg.saes.formats.registry import sae_format
from fgg.saes.formats.torch_files import (
    centre,
    check_one_place,
    check_size,
    dense,
    keep_place,
    matrix,
    named,
    per_feature,
    reaching,
    read_weights,
    whole,
)
from fgg.saes.normalisation import CENTRED_BY_DEVIATION
from fgg.saes.sae import build_sae

WEIGHTS = ("sae.pt", "model.safetensors", "model.pt")
CONFIGS = ("config.json", "config.yaml", "config.yml")
ACTIVATIONS = ("topk", "batchtopk", "jumprelu")
SAYS = ("activation", "sae_type", "architecture")
OTHERS = ("activation_fn_str", "activation_fn", "trainer", "class")  # keys of other formats' configurations
PLAIN = ("encoder.weight", "encoder.bias", "decoder.weight")
LIBRARY = ("encoder.final_block.0.weight", "encoder.final_block.0.bias", "dictionary._weights")
RUNNING, THRESHOLDS = "_running_threshold", ("jump_thresholds", "thresholds")


@sae_format(name="ViSAEBench SAE", files="sae.pt or model.safetensors, with config.json or config.yaml", place=300)
def visaebench(path: Path) -> Any | None:
    """Load an SAE of ViSAEBench: its folder, or the file of weights in it.

    Raises:
        FggError: files are damaged, the activation is unknown, or its k or threshold is missing.
    """
    folder = path if path.is_dir() else path.parent
    file = path if path.is_file() else next((folder / own for own in WEIGHTS if (folder / own).is_file()), None)
    settings = next((folder / own for own in CONFIGS if (folder / own).is_file()), None)
    if file is None or settings is None or file.name not in WEIGHTS:
        return None
    with named(file):
        config = read_settings(settings)
        if any(key in config for key in OTHERS) or not any(isinstance(config.get(key), str) for key in SAYS):
            return None
        return _build(config, read_weights(file), folder)


def _build(config: Mapping[str, Any], content: Any, folder: Path) -> Any:
    check_one_place(config)
    activation = next(str(config[key]) for key in SAYS if isinstance(config.get(key), str)).lower()
    check_one_place({"type": activation})
    if activation not in ACTIVATIONS:
        raise FggError(f"the activation {activation!r} is not supported; fgg reads {', '.join(ACTIVATIONS)}")
    library = isinstance(content, Mapping) and LIBRARY[0] in content
    other = ("dictionary.multiplier",) if library else ("decoder.bias",)
    found = dense(content, LIBRARY if library else PLAIN, (*other, RUNNING, *THRESHOLDS))
    encoder, bias, decoder = (found[name] for name in (LIBRARY if library else PLAIN))
    for name in (LIBRARY if library else PLAIN)[::2]:
        matrix(found, name)
    if library and "dictionary.multiplier" in found:
        decoder = decoder * found["dictionary.multiplier"].exp()
    features, width = encoder.shape
    check_size(config, {"input_dim": width, "hidden_dim": features})
    tensors = {
        "W_enc": encoder.T,
        "b_enc": bias,
        "W_dec": decoder,
        "b_dec": found.get("decoder.bias", torch.zeros(width)),
    }
    options: dict[str, Any] = {"subtract_b_dec": False}
    if activation == "topk":
        options |= {"activation": "topk", "k": whole(config.get("k"), "k")}
        if options["k"] > features:
            raise FggError(f"k is {options['k']}, more than its {features} features")
    else:
        options["architecture"] = "jumprelu"
        tensors["threshold"] = _threshold(config, found, activation, library, features)
    sae = keep_place(build_sae(tensors, **options), config)
    centre(sae, CENTRED_BY_DEVIATION, folder)
    return sae


def _threshold(
    config: Mapping[str, Any], found: Mapping[str, Tensor], activation: str, library: bool, features: int
) -> Tensor:
    """The threshold of each feature, above which codes stay: (F,)."""
    if activation == "jumprelu":
        name = next((own for own in THRESHOLDS if own in found), None)
        if name is None:
            raise FggError(
                "a JumpReLU SAE needs the thresholds of its training (jump_thresholds); ViSAEBench would take 0.01"
            )
        if library and name == "thresholds":
            raise FggError(
                "overcomplete stores the logarithms of its thresholds, which ViSAEBench reads as they are; store their "
                "exponentials as jump_thresholds"
            )
        return per_feature(found, name, features)
    stated = config.get("threshold")
    if stated is None and RUNNING not in found:
        raise FggError(
            "a batch-top-k SAE needs the threshold of its training (threshold in the configuration, or "
            f"{RUNNING} in the weights); ViSAEBench would take 0"
        )
    if stated is not None and (not isinstance(stated, int | float) or isinstance(stated, bool)):
        raise FggError(f"threshold must be a number, not {stated!r}")
    own = torch.tensor(float(stated)) if stated is not None else found[RUNNING]
    return reaching(per_feature({"threshold": own}, "threshold", features))
