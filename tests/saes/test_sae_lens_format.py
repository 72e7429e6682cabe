"""sae-lens folders of every architecture that it can save: read as sae-lens reads them, and as a slow definition computes them."""

import json

import pytest
import torch
from sae_lens import SAE
from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY, get_sae_training_class
from sae_peers import FEATURES, LAYER, WIDTH, agree, fill, refusal, rows
from safetensors.torch import load_file, save_file

from fgg.attribution.controls import randomized_sae
from fgg.saes import build_sae
from fgg.saes.formats.sae_lens_folder import REFUSED
from fgg.saes.sae import load_sae

INFERENCE = sorted(name for name in SAE_CLASS_REGISTRY if "transcoder" not in name and name not in REFUSED)
TRAINED = sorted(SAE_TRAINING_CLASS_REGISTRY)
K, THRESHOLD = 5, 0.6


def options(architecture):
    found = {"k": K} if "topk" in architecture else {}
    return found | ({"matryoshka_widths": [8, FEATURES]} if "matryoshka" in architecture else {})


def made(architecture):
    """An SAE of this architecture for use, with random weights, biases and thresholds."""
    own, config = SAE_CLASS_REGISTRY[architecture]
    sae = fill(own(config(d_in=WIDTH, d_sae=FEATURES, **options(architecture))))
    if architecture == "matching_pursuit":
        sae.cfg.max_iterations = 4
    return sae


def slow(sae):
    """Codes one token at a time, from the tensors of the folder."""
    w = {name: tensor.detach() for name, tensor in sae.state_dict().items()}
    architecture = sae.cfg.architecture()

    def pursuit(row):
        left, found, before = row - w["b_dec"], torch.zeros(FEATURES), None
        for _ in range(sae.cfg.max_iterations):
            best = max(range(FEATURES), key=lambda j: float(left @ w["W_dec"][j]))
            value = max(float(left @ w["W_dec"][best]), 0.0)
            found[best] += value
            left = left - value * w["W_dec"][best]
            chosen = found.nonzero().flatten().tolist()
            if chosen == before or left.norm() < sae.cfg.residual_threshold:
                break
            before = chosen
        return found

    def linear(row):
        pre = (row - w["b_dec"]) @ w["W_enc"]
        if architecture == "gated":
            size = (pre * w["r_mag"].exp() + w["b_mag"]).clamp(min=0)
            return torch.where(pre + w["b_gate"] > 0, size, torch.zeros(FEATURES))
        pre = pre + w["b_enc"]
        if architecture == "abstopk":
            return torch.where(pre.abs() >= pre.abs().sort().values[-K], pre, torch.zeros(FEATURES))
        if architecture == "topk":
            return torch.where(pre >= pre.sort().values[-K], pre, torch.zeros(FEATURES)).clamp(min=0)
        return pre.clamp(min=0) * (pre > w["threshold"] if architecture == "jumprelu" else 1)

    one = pursuit if architecture == "matching_pursuit" else linear
    return lambda x: torch.stack([one(row) for row in x]), lambda f: f @ w["W_dec"] + w["b_dec"]


@pytest.mark.parametrize("architecture", INFERENCE)
def test_folders_for_use(architecture, tmp_path):
    sae = made(architecture)
    sae.save_inference_model(tmp_path / "sae") if hasattr(sae, "save_inference_model") else sae.save_model(
        tmp_path / "sae"
    )
    theirs, ours = SAE.load_from_disk(tmp_path / "sae"), load_sae(tmp_path / "sae")
    agree(ours, theirs.encode, theirs.decode)
    agree(ours, *slow(sae))
    assert torch.equal(load_sae(tmp_path / "sae" / "sae_weights.safetensors").W_dec, ours.W_dec)


@pytest.mark.parametrize("architecture", TRAINED)
def test_folders_of_the_trainer(architecture, tmp_path):
    own, config = get_sae_training_class(architecture)
    sae = fill(own(config(d_in=WIDTH, d_sae=FEATURES, **options(architecture))))
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold.fill_(THRESHOLD)
    if architecture == "matching_pursuit":
        sae.cfg.max_iterations = 4
    sae.save_model(tmp_path / "sae")
    sae.save_inference_model(tmp_path / "converted")
    theirs = SAE.load_from_disk(tmp_path / "converted")
    agree(load_sae(tmp_path / "sae"), theirs.encode, theirs.decode)
    agree(load_sae(tmp_path / "converted"), theirs.encode, theirs.decode)


@pytest.mark.parametrize("architecture", INFERENCE)
def test_it_goes_through_a_run(architecture, data, model_folder, sae_settings, tmp_path):
    sae = made(architecture)
    sae.cfg.metadata.hook_name = "blocks.1.hook_resid_post"
    build_sae.save_inference(sae, tmp_path / "sae")
    settings = {**sae_settings, "weights": str(tmp_path / "sae")}
    measured = build_sae.build(model_folder, data, LAYER, settings, tmp_path / "out")
    assert measured["place"] == "checked"
    assert torch.equal(load_sae(tmp_path / "out").encode(rows()), load_sae(tmp_path / "sae").encode(rows()))


def test_the_shuffled_control_of_matching_pursuit_has_other_codes():
    sae = made("matching_pursuit")
    shuffled = randomized_sae(sae, 0, LAYER)
    assert not torch.allclose(shuffled.encode(rows()), sae.encode(rows()))
    assert torch.equal(shuffled.W_dec.flatten().sort().values, sae.W_dec.flatten().sort().values)


def test_temporal_saes_are_refused_with_the_reason(tmp_path):
    own, config = SAE_CLASS_REGISTRY["temporal"]
    own(config(d_in=WIDTH, d_sae=512, n_heads=4, kval_topk=4)).save_model(tmp_path / "sae")
    assert "its codes of a token depend on the tokens before it" in refusal(tmp_path / "sae")


@pytest.fixture
def folder(tmp_path):
    """A function: architecture, changes to its tensors (None drops one) and its settings -> its folder."""

    def make(architecture, tensors=None, **changes):
        place = tmp_path / "sae"
        build_sae.save_inference(made(architecture), place)
        config = json.loads((place / "cfg.json").read_text()) | changes
        (place / "cfg.json").write_text(json.dumps(config))
        weights = load_file(place / "sae_weights.safetensors") | (tensors or {})
        save_file(
            {key: value for key, value in weights.items() if value is not None}, place / "sae_weights.safetensors"
        )
        return place

    return make


@pytest.mark.parametrize("architecture", INFERENCE)
def test_refusals(architecture, folder):
    assert "holds NaN or infinite values in W_dec" in refusal(
        folder(architecture, {"W_dec": torch.full((FEATURES, WIDTH), torch.nan)})
    )
    for tensors in ({"W_dec": torch.ones(FEATURES, 3)}, {"b_dec": torch.ones(3)}, {"W_dec": None}):
        assert "cannot be read as a sae-lens SAE" in refusal(folder(architecture, tensors))
    assert "needs at least one feature" in refusal(folder(architecture, d_sae=0))
    place = folder(architecture)
    file = place / "sae_weights.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    assert "cannot be read as a sae-lens SAE" in refusal(place)
