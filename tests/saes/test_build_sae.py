"""A layer's SAE: sae-lens reads the folder, and what metrics.json says is measured again here, by hand."""

import copy
import hashlib
import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fgg.data.load import load_split
from fgg.errors import FggError
from fgg.models import model_files
from fgg.saes import build_sae
from fgg.saes.activations import Residuals
from fgg.saes.measures import measure
from fgg.saes.sae import TENSORS, load_sae
from fgg.saes.sae import build_sae as make_sae

LAYER, WIDTH, FEATURES = 1, 24, 48
NORMALISATIONS = ("layer_norm", "constant_norm_rescale")
CPU = torch.device("cpu")
FILES = ["cfg.json", "metrics.json", "sae_weights.safetensors"]


def changed(settings, weights="train", **train):
    return {**copy.deepcopy(settings), "weights": weights, "train": {**settings["train"], **train}}


def digests(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def tensors(width=WIDTH, features=FEATURES):
    draw = torch.Generator().manual_seed(1)
    shapes = {"W_enc": (width, features), "W_dec": (features, width), "b_enc": (features,), "b_dec": (width,)}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def held_out(data, model_folder):
    """The residuals of the validation pictures at their patches, by a hook of our own, one picture at a time."""
    model, preprocess, _ = model_files.load(model_folder, CPU)
    rows = []
    hook = model.blocks[LAYER].register_forward_hook(lambda block, given, output: rows.append(output[0, 1:].detach()))
    for image in load_split(data / "val.parquet").tensors(preprocess):
        model(image[None])
    hook.remove()
    return torch.cat(rows)


def test_sae_lens_reads_the_folder_as_fgg_does(sae_folder, held_out):
    from sae_lens import SAE

    theirs, ours = SAE.load_from_disk(sae_folder, device="cpu"), load_sae(sae_folder)
    assert sorted(file.name for file in sae_folder.iterdir()) == FILES
    assert ours.W_dec.shape == (FEATURES, WIDTH) and not ours.training
    assert not any(parameter.requires_grad for parameter in ours.parameters())
    codes = ours.encode(held_out)
    assert codes.shape == (len(held_out), FEATURES) and torch.equal(codes, theirs.encode(held_out))
    assert torch.equal(ours.decode(codes), theirs.decode(codes))
    assert len(held_out) == 12 * 16


def test_the_metrics_measured_again(sae_folder, sae_settings, held_out):
    found = json.loads((sae_folder / "metrics.json").read_text())
    sae = load_sae(sae_folder)
    codes = sae.encode(held_out)
    x, again, f = held_out.double().numpy(), sae.decode(codes).double().numpy(), codes.numpy()
    assert found["explained_variance"] == pytest.approx(
        1 - ((x - again) ** 2).sum() / ((x - x.mean(0)) ** 2).sum(), abs=1e-4
    )
    assert found["l0"] == pytest.approx(np.mean([(row > 0).sum() for row in f]), abs=0.02)
    assert 0 < found["l0"] <= 4 and 0.1 < found["explained_variance"] < 1, "it has learnt something"
    dead = sum(not (f[:, i] > 0).any() for i in range(FEATURES))
    assert found["dead_share"] == pytest.approx(dead / FEATURES, abs=1.5 / FEATURES)
    assert (found["layer"], found["features"], found["width"], found["tokens"]) == (LAYER, FEATURES, WIDTH, 192)
    assert found["fgg"]["settings"] == sae_settings


def test_residuals_are_those_of_the_block_at_the_patches(data, model_folder, held_out):
    model, preprocess, _ = model_files.load(model_folder, CPU)
    rows = Residuals(model, preprocess, data / "val.parquet", LAYER, CPU, seed=0).first()
    assert torch.allclose(rows, held_out, atol=1e-5)
    assert not [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]
    fewer = Residuals(model, preprocess, data / "val.parquet", LAYER, CPU, seed=0, max_images=5)
    assert fewer.first().shape == (5 * 16, WIDTH)


def test_a_second_run_gives_the_same_bytes(data, model_folder, sae_settings, sae_folder, tmp_path):
    torch.manual_seed(99)
    build_sae.build(model_folder, data, LAYER, sae_settings, tmp_path)
    assert digests(tmp_path) == digests(sae_folder)
    other = tmp_path / "other"
    build_sae.build(model_folder, data, LAYER, {**sae_settings, "seed": 1}, other)
    assert digests(other)["sae_weights.safetensors"] != digests(sae_folder)["sae_weights.safetensors"]


def test_an_sae_from_a_path_is_measured_not_trained(
    data, model_folder, sae_settings, sae_folder, held_out, tmp_path, monkeypatch
):
    monkeypatch.setattr(build_sae, "train", lambda *a: pytest.fail("trained"))
    settings = changed(sae_settings, weights=str(sae_folder.parent / "layer_{layer}"))
    measured = build_sae.build(model_folder, data, LAYER, settings, tmp_path)
    before = json.loads((sae_folder / "metrics.json").read_text())
    assert measured == {key: value for key, value in before.items() if key not in ("fgg", "layer", "learning_curve")}
    assert torch.equal(load_sae(tmp_path).encode(held_out), load_sae(sae_folder).encode(held_out))
    assert sorted(file.name for file in tmp_path.iterdir()) == FILES


def test_a_standard_sae_without_normalisation(data, model_folder, sae_settings, tmp_path):
    settings = changed(sae_settings, architecture="standard", normalize="none", tokens=1024, l1=0.1)
    measured = build_sae.build(model_folder, data, 0, settings, tmp_path)
    assert json.loads((tmp_path / "cfg.json").read_text())["architecture"] == "standard"
    assert measured["l0"] > 4 and math.isfinite(measured["explained_variance"])


def test_an_sae_of_another_width(data, model_folder, sae_settings, tmp_path):
    build_sae.save_inference(make_sae(tensors(width=12)), tmp_path / "narrow")
    settings = changed(sae_settings, weights=str(tmp_path / "narrow"))
    with pytest.raises(FggError, match="the SAE for layer 1 has width 12, but the model's residual stream has 24;"):
        build_sae.build(model_folder, data, LAYER, settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("hook", ["blocks.2.hook_resid_post", "blocks.1.hook_mlp_out"])
def test_an_sae_of_another_place(data, model_folder, sae_settings, tmp_path, hook):
    sae = make_sae(tensors())
    sae.cfg.metadata.hook_name = hook
    build_sae.save_inference(sae, tmp_path / "own")
    settings = changed(sae_settings, weights=str(tmp_path / "own"))
    with pytest.raises(FggError, match=rf"for layer 1 was trained on {hook}, not on blocks\.1\.hook_resid_post"):
        build_sae.build(model_folder, data, LAYER, settings, tmp_path / "out")


@pytest.mark.parametrize("kind", ["layer_norm", "gated"])
def test_a_prisma_sae_becomes_a_sae_lens_folder_measured_on_our_activations(
    data, model_folder, sae_settings, held_out, tmp_path, kind
):
    """Its codes, its L0 and its explained variance by hand, from Prisma's own tensors."""
    weights = tensors() | {name: torch.zeros(FEATURES) for name in ("b_gate", "r_mag", "b_mag")}
    needed = TENSORS["gated" if kind == "gated" else "standard"]
    config = {
        "architecture": "gated" if kind == "gated" else "standard",
        "activation_fn_str": "relu",
        "normalize_activations": "none" if kind == "gated" else "layer_norm",
        "d_in": WIDTH,
        "hook_point_layer": LAYER,
    }
    torch.save({"cfg": config, "state_dict": {name: weights[name] for name in needed}}, tmp_path / "n_images_9.pt")
    settings = changed(sae_settings, weights=str(tmp_path / "n_images_9.pt"))
    found = build_sae.build(model_folder, data, LAYER, settings, tmp_path / "out")
    x, scale, shift = held_out.double(), 1.0, 0.0
    if kind != "gated":
        shift, scale = x.mean(1, keepdim=True), x.std(1, keepdim=True)
        x = (x - shift) / (scale + 1e-5)
    w = {name: tensor.double() for name, tensor in weights.items()}
    codes = ((x - w["b_dec"]) @ w["W_enc"] + (0 if kind == "gated" else w["b_enc"])).clamp(min=0)
    again = (codes @ w["W_dec"] + w["b_dec"]) * scale + shift
    total = (held_out.double() - held_out.double().mean(0)).square().sum()
    assert found["explained_variance"] == pytest.approx(float(1 - (held_out - again).square().sum() / total), rel=1e-4)
    assert found["l0"] == pytest.approx(float((codes > 0).double().sum(1).mean()), abs=0.02)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == FILES
    assert torch.allclose(load_sae(tmp_path / "out").encode(held_out).double(), codes, atol=1e-4)


def test_a_layer_beyond_the_depth(data, model_folder, sae_settings, tmp_path):
    with pytest.raises(FggError, match="layer 4 is beyond the model's depth 4; layers are 0 to 3"):
        build_sae.build(model_folder, data, 4, sae_settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_more_active_features_than_there_are(data, model_folder, sae_settings, tmp_path):
    with pytest.raises(FggError, match=r"sae\.train\.k: 49 is more than the 48 features"):
        build_sae.build(model_folder, data, LAYER, changed(sae_settings, k=49), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_measure_in_pieces_gives_the_same():
    sae, rows = make_sae(tensors()), torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(2))
    whole, pieces = measure(sae, rows), measure(sae, rows, chunk=7)
    assert whole == pytest.approx(pieces, rel=1e-6)


def test_a_tanh_sae_is_not_saved_as_another(tmp_path):
    """sae-lens knows no such activation: read back, its codes would be those of a ReLU."""
    with pytest.raises(FggError, match="cannot store a tanh-relu activation"):
        build_sae.save_inference(make_sae(tensors(), activation="tanh-relu"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options", [{}, {"activation": "topk", "k": 3}, *({"normalize": n} for n in NORMALISATIONS)], ids=str
)
def test_an_sae_is_the_same_when_read_back(tmp_path, options):
    sae, rows = make_sae(tensors(), **options), torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(4))
    build_sae.save_inference(sae, tmp_path)
    codes, back = sae.encode(rows), load_sae(tmp_path)
    assert codes.any() and torch.equal(back.encode(rows), codes)
    again = back.decode(back.encode(rows))
    assert torch.equal(again, sae.decode(sae.encode(rows)))


def test_other_braces_in_the_path(data, model_folder, sae_settings, sae_folder, tmp_path):
    place = tmp_path / "{mine}" / "layer_1"
    shutil.copytree(sae_folder, place)
    settings = changed(sae_settings, weights=str(tmp_path / "{mine}" / "layer_{layer}"))
    assert build_sae.build(model_folder, data, LAYER, settings, tmp_path / "out")


# ---- load_sae


def refusal(path):
    with pytest.raises(FggError) as error:
        load_sae(path)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.fixture
def copy_of_sae(tmp_path):
    build_sae.save_inference(make_sae(tensors()), tmp_path / "sae")
    return tmp_path / "sae"


def test_nothing_there(tmp_path):
    assert "does not exist; check the path, or set 'train' to train an SAE" in refusal(tmp_path / "none")


def test_an_empty_folder(tmp_path):
    said = refusal(tmp_path)
    assert "is in none of the formats that fgg reads (sae-lens folder: cfg.json and sae_weights.safetensors; " in said
    assert "Prisma checkpoint: config.json and a .pt file" in said


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
def test_half_a_folder(copy_of_sae, name):
    (copy_of_sae / name).unlink()
    assert "is in none of the formats that fgg reads" in refusal(copy_of_sae)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"architecture": "nope"}'])
def test_a_damaged_config(copy_of_sae, text):
    (copy_of_sae / "cfg.json").write_text(text)
    assert "cannot be read as a sae-lens SAE (" in refusal(copy_of_sae)


def test_damaged_weights(copy_of_sae):
    file = copy_of_sae / "sae_weights.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    assert "cannot be read as a sae-lens SAE (" in refusal(copy_of_sae)


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_weights_that_do_not_fit(copy_of_sae, change):
    file = copy_of_sae / "sae_weights.safetensors"
    weights = load_file(file)
    dropped = weights.pop("W_dec")
    save_file(weights if change == "missing" else {**weights, "W_dec": dropped[:, :5].contiguous()}, file)
    assert "cannot be read as a sae-lens SAE (" in refusal(copy_of_sae)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_weights(copy_of_sae, value):
    file = copy_of_sae / "sae_weights.safetensors"
    weights = load_file(file)
    weights["b_enc"][3] = value
    save_file(weights, file)
    assert "holds NaN or infinite values in b_enc" in refusal(copy_of_sae)


def test_an_sae_from_tensors_computes_its_definition():
    weights, rows = tensors(), torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(3))
    before = (rows - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    codes = make_sae(weights).encode(rows)
    assert torch.allclose(codes, before.clamp(min=0), atol=1e-5)
    assert torch.allclose(make_sae(weights, "tanh-relu").encode(rows), before.clamp(min=0).tanh(), atol=1e-5)
    largest = make_sae(weights, "topk", k=3).encode(rows)
    for row, wanted in zip(largest, before.clamp(min=0), strict=True):
        kept = wanted.topk(3).indices
        assert set(row.nonzero().flatten().tolist()) <= set(kept.tolist())
        assert torch.allclose(row[kept], wanted[kept], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"b_dec": None}, {}, "lacks the tensors b_dec"),
        ({"b_enc": torch.zeros(3)}, {}, r"b_enc is \(3,\), expected \(48,\)"),
        ({}, {"activation": "gelu"}, "activation 'gelu' is unknown"),
        ({}, {"normalize": "l2"}, "normalisation 'l2' is unknown"),
        ({}, {"activation": "topk"}, "needs k"),
        ({}, {"architecture": "recurrent"}, "architecture 'recurrent' is unknown"),
        ({}, {"architecture": "gated"}, "lacks the tensors b_gate, r_mag, b_mag"),
    ],
)
def test_tensors_that_make_no_sae(change, options, message):
    weights = {name: tensor for name, tensor in (tensors() | change).items() if tensor is not None}
    with pytest.raises(FggError, match=message):
        make_sae(weights, **options)
