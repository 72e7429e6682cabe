"""Every place where fgg reads a file of weights: functions that put bytes there and load them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from fgg.models.checkpoints import read
from fgg.saes.sae import load_sae

WIDTH, FEATURES = 4, 6


def sae_lens(folder: Path, config: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    own = {"architecture": "standard", "d_in": WIDTH, "d_sae": FEATURES, "dtype": "float32", "device": "cpu"}
    own |= {"metadata": {}, "apply_b_dec_to_input": True, "normalize_activations": "none", **(config or {})}
    (folder / "cfg.json").write_text(json.dumps(own))
    save_file(state(), folder / "sae_weights.safetensors")
    return folder


def state() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (WIDTH, FEATURES), "W_dec": (FEATURES, WIDTH), "b_enc": (FEATURES,), "b_dec": (WIDTH,)}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


PRISMA = {
    "architecture": "standard", "activation_fn_str": "relu", "activation_fn_kwargs": {}, "normalize_activations": "none",
    "d_in": WIDTH, "hook_point_layer": 0,
}  # fmt: skip
LEARNING = {"trainer": {"dict_class": "AutoEncoderNew", "activation_dim": WIDTH, "dict_size": FEATURES}}
BENCH = {"activation": "topk", "k": 2}
SAEV = json.dumps({"schema": 5, "cls": "Relu", "cfg": {"activation": {"cls": "Relu"}}}).encode() + b"\n"


def placed(name: str, data: bytes, **beside: Any) -> Callable[[Path], Any]:
    """Load an SAE from a file of these bytes, with files of JSON beside it."""

    def load(folder: Path) -> Any:
        for other, content in beside.items():
            (folder / other.replace("_json", ".json")).write_text(json.dumps(content))
        (folder / name).write_bytes(data)
        return load_sae(folder if beside else folder / name)

    return load


def statistics(data: bytes) -> Callable[[Path], Any]:
    """A good SAE of ViSAEBench, and these bytes in the file of statistics beside it."""

    def load(folder: Path) -> Any:
        own = {"encoder.weight": state()["W_dec"], "encoder.bias": state()["b_enc"], "decoder.weight": state()["W_dec"]}
        torch.save(own, folder / "sae.pt")
        (folder / "config.json").write_text(json.dumps(BENCH))
        (folder / "norm_stats.pt").write_bytes(data)
        return load_sae(folder)

    return load


def checkpoint(name: str, data: bytes) -> Callable[[Path], Any]:
    def load(folder: Path) -> Any:
        (folder / name).write_bytes(data)
        return read(folder / name)

    return load


PLACES: dict[str, Callable[[bytes], Callable[[Path], Any]]] = {
    "Prisma's folder": lambda data: placed("weights.pt", data, config_json=PRISMA),
    "Prisma's file": lambda data: placed("n_images_1.pt", data),
    "dictionary_learning": lambda data: placed("ae.pt", data, config_json=LEARNING),
    "ViSAEBench": lambda data: placed("sae.pt", data, config_json=BENCH),
    "ViSAEBench's statistics": statistics,
    "saev": lambda data: placed("sae.pt", SAEV + data),
    "overcomplete": lambda data: placed("sae.pt", data + b"overcomplete.sae", config_json={"class": "SAE"}),
    "sae-lens' weights": lambda data: (
        lambda folder: (
            sae_lens(folder),
            (folder / "sae_weights.safetensors").write_bytes(data),
            load_sae(folder),
        )
    ),
    "a checkpoint .pth": lambda data: checkpoint("x.pth", data),
    "a checkpoint .safetensors": lambda data: checkpoint("x.safetensors", data),
}
