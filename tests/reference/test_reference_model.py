"""The model's answers and insides, and the SAEs' codes, against the reference vectors."""

import numpy as np
import pytest
import torch

from fgg.attribution.attribute import attribute
from fgg.models.capture import capture
from fgg.models.vit import num_patches

METHODS = ("transmm", "rollout", "gradcam", "tokentm")


@pytest.fixture(scope="module")
def seen(reference_model, reference_images, sae_layers):
    return capture(reference_model, reference_images, cams=True, attention=True, layers=sae_layers)


def test_the_patches_are_counted_as_stored(reference_model, read):
    assert num_patches(reference_model) == read("meta.json")["n_patches"]


def test_predictions(seen, read, close):
    stored = read("predictions.npz")
    close(seen.logits, stored["logits"], atol=1e-5)
    assert seen.predicted.tolist() == stored["predicted"].tolist()
    assert seen.target.tolist() == stored["predicted"].tolist()
    close(seen.confidence, stored["confidence"], atol=1e-5)
    close(seen.logits.softmax(-1), stored["probabilities"], atol=1e-5)


def test_cams_and_attention(seen, read, close):
    stored = read("internals.npz")
    close(torch.stack(seen.cams, 1), stored["cam"], atol=2e-5 * stored["cam"].max())
    close(torch.stack(seen.attention, 1), stored["pattern"].mean(2), atol=5e-6)
    positive = np.maximum(stored["pattern"] * stored["pattern_grad"], 0).mean(2)
    close(torch.stack(seen.cams, 1), positive, atol=2e-5 * positive.max())


def test_residuals_and_their_gradients(seen, read, close, sae_layers):
    stored = read("internals.npz")
    for layer in sae_layers:
        scale = np.abs(stored[f"resid_grad_L{layer}"]).max()
        close(seen.residuals[layer], stored[f"resid_L{layer}"], atol=2e-5, what=f"residual {layer}")
        close(seen.gradients[layer], stored[f"resid_grad_L{layer}"], atol=2e-5 * scale, what=f"gradient {layer}")


def test_sae_codes(reference_saes, read, close):
    stored = read("internals.npz")
    for layer, sae in reference_saes.items():
        with torch.no_grad():
            codes = sae.encode(torch.from_numpy(stored[f"resid_L{layer}"]))
        close(codes, stored[f"codes_L{layer}"], atol=2e-5, what=f"layer {layer}")


@pytest.mark.parametrize("activation", ["relu", "topk", "tanh-relu"])
@pytest.mark.parametrize("normalize", ["none", "layer_norm", "constant_norm_rescale"])
def test_sae_variants(normalize, activation, build_reference_sae, read, close, sae_layers):
    stored = read("sae_variants.npz")
    layer = sae_layers[0]  # the variants share the first SAE's weights, and image 0
    sae = build_reference_sae(layer, activation, normalize, k=8 if activation == "topk" else None)
    residual = torch.from_numpy(read("internals.npz")[f"resid_L{layer}"][0])
    with torch.no_grad():
        codes = sae.encode(residual)
        decoded = sae.decode(codes)
    close(codes, stored[f"{normalize}__{activation}__codes"], atol=2e-5)
    close(decoded, stored[f"{normalize}__{activation}__recon"], atol=2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_attribution_methods(method, reference_model, reference_images, read, close):
    out = attribute(reference_model, reference_images, method)
    stored = read("attributions.npz")[f"{method}_raw"]
    close(out.relevance, stored, atol=2e-4 * np.abs(stored).max(1, keepdims=True))
    assert out.relevance.dtype == torch.float32
    assert out.predicted.tolist() == read("predictions.npz")["predicted"].tolist()
    close(out.confidence, read("predictions.npz")["confidence"], atol=1e-5)
    if method == "gradcam":  # patches cut off at zero are the same ones
        assert ((out.relevance.numpy() == 0) == (stored == 0)).all()


def test_the_metrics_were_fed_these_maps(reference_model, reference_images, read, close):
    stored = read("metric_attributions.npz")
    for method in ("transmm", "rollout", "gradcam"):
        out = attribute(reference_model, reference_images, method).relevance
        close(out, stored[method], atol=2e-4 * np.abs(stored[method]).max(1, keepdims=True), what=method)
