"""The reference model, its images and SAEs, and readers of the vectors."""

import json

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def read(reference):
    """A function: file name -> its content; arrays and numbers as stored."""
    kept = {}

    def open_file(name):
        if name not in kept:
            path = reference / name
            kept[name] = np.load(path) if path.suffix == ".npz" else json.loads(path.read_text(encoding="utf-8"))
            if path.suffix == ".npz":
                kept[name] = {key: kept[name][key] for key in kept[name].files}
        return kept[name]

    return open_file


@pytest.fixture(scope="session")
def reference_model(reference, read):
    from safetensors.torch import load_file
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(**read("model_kwargs.json"))
    model.load_state_dict(load_file(reference / "model.safetensors"))
    return model.eval()


@pytest.fixture(scope="session")
def reference_images(read):
    return torch.from_numpy(read("images.npz")["images"])


@pytest.fixture(scope="session")
def build_reference_sae(read):
    """A function: layer, and other activation, normalisation, k -> sae-lens SAE with the stored weights."""
    from fgg.saes.sae import build_sae

    def build(layer, activation=None, normalize=None, k=None):
        stored = read(f"sae_layer{layer}/weights.npz")
        tensors = {name: torch.from_numpy(stored[name]) for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
        return build_sae(
            tensors,
            activation or str(stored["activation_fn"]),
            normalize or str(stored["normalize_activations"]),
            k,
        ).eval()

    return build


@pytest.fixture(scope="session")
def sae_layers(read):
    return sorted(int(layer) for layer in read("meta.json")["sae_layers"])


@pytest.fixture(scope="session")
def reference_saes(build_reference_sae, sae_layers):
    return {layer: build_reference_sae(layer) for layer in sae_layers}


@pytest.fixture(scope="session")
def engine(reference_model, reference_images):
    from fgg.perturbation.engine import Perturber

    return Perturber(reference_model, reference_images)


@pytest.fixture(scope="session")
def close():
    """A function: measured, stored, absolute and relative tolerance -> the worst error, after the assertion."""

    def compare(measured, stored, atol=0.0, rtol=0.0, what=""):
        measured, stored = np.asarray(measured, np.float64), np.asarray(stored, np.float64)
        assert measured.shape == stored.shape, (what, measured.shape, stored.shape)
        assert np.isfinite(stored).all(), what
        error = np.abs(measured - stored)
        allowed = atol + rtol * np.abs(stored)
        excess = error - allowed
        assert (excess <= 0).all(), f"{what}: off by {error.max():.3g}, {float(excess.max()):.3g} beyond the tolerance"
        return float(error.max())

    return compare
