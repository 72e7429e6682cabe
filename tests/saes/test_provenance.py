"""What an SAE's folder says of its origin, and what is refused because of it."""

import copy
import hashlib
import json
import shutil

import pytest
import torch
from sae_lens import SAE

import fgg
from fgg.errors import FggError
from fgg.models import build_model, model_files
from fgg.saes import build_sae, provenance
from fgg.saes.sae import build_sae as make_sae
from fgg.saes.sae import check_sae, load_sae

LAYER, WIDTH, FEATURES = 1, 24, 48
CPU = torch.device("cpu")
MODEL_KEYS = {"architecture": "vit_tiny_patch16_224"}


def metadata(folder):
    return json.loads((folder / "cfg.json").read_text())["metadata"]


@pytest.fixture(scope="module")
def other_model(model_folder, tmp_path_factory):
    """A folder of a model of the same shape whose weights differ in one number."""
    folder = tmp_path_factory.mktemp("other") / "tiny"
    shutil.copytree(model_folder, folder)
    model, _, record = model_files.load(model_folder, CPU)
    with torch.no_grad():
        model.norm.weight[0] += 1e-3
    model_files.save(folder, model, {key: value for key, value in record.items() if key != "fgg"}, {})
    return folder


@pytest.mark.parametrize(
    ("kind", "normalisation", "tokens"),
    [
        ("trained", "covariance_whitening", 49152),
        ("frozen_decoder", "expected_average_only_in", 49152),
        ("untrained", "covariance_whitening", 0),
        ("pca", "none", 24 * 16),
        ("identity", "none", 0),
    ],
)
def test_what_is_written(kind, normalisation, tokens, data, model_folder, sae_settings, tmp_path):
    build_sae.build(model_folder, data, LAYER, {**sae_settings, "kind": kind, "seed": 3}, tmp_path)
    found = metadata(tmp_path)
    expected = {
        "hook_name": "blocks.1.hook_resid_post",
        "layer": LAYER,
        "model": {
            **MODEL_KEYS,
            "sha256": hashlib.sha256((model_folder / "model.safetensors").read_bytes()).hexdigest(),
        },
        "dataset": "tiny",
        "split": "train",
        "normalisation": normalisation,
        "tokens_seen": tokens,
        "seed": 3,
        "kind": kind,
        "fgg_version": fgg.__version__,
        "place": "checked",
    }
    assert {key: found.get(key) for key in expected} == expected and "source" not in found
    text = (tmp_path / "cfg.json").read_text()
    assert str(tmp_path) not in text and str(model_folder) not in text and str(data) not in text
    assert SAE.load_from_disk(tmp_path).cfg.metadata.to_dict() == found


def test_the_sae_fits_where_it_was_trained(sae_folder, model_folder):
    model, _, record = model_files.load(model_folder, CPU)
    weights = provenance.model_record(record["architecture"], model_folder)
    assert check_sae(load_sae(sae_folder), model, LAYER, weights) == "checked"
    assert check_sae(load_sae(sae_folder), model, LAYER) == "checked"


def test_its_own_sae_on_the_same_weights_read_again(
    sae_folder, model_folder, model_settings, data, sae_settings, tmp_path
):
    """As in docs/own-data.md: the weights of data/models become the checkpoint of another dataset."""
    again = copy.deepcopy(model_settings)
    again["model"]["weights"] = str(model_folder / "model.safetensors")
    build_model.build(data, again, tmp_path / "model")
    settings = {**sae_settings, "weights": str(sae_folder)}
    assert build_sae.build(tmp_path / "model", data, LAYER, settings, tmp_path / "out")["place"] == "checked"


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_its_own_sae_at_another_layer(sae_folder, model_folder, data, sae_settings, tmp_path, layer):
    model, _, _ = model_files.load(model_folder, CPU)
    message = rf"the SAE for layer {layer} was trained on blocks\.1\.hook_resid_post, not on blocks\.{layer}\.hook"
    with pytest.raises(FggError, match=message):
        check_sae(load_sae(sae_folder), model, layer)
    with pytest.raises(FggError, match=message):
        build_sae.build(model_folder, data, layer, {**sae_settings, "weights": str(sae_folder)}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_its_own_sae_on_another_model(sae_folder, other_model, data, sae_settings, tmp_path):
    settings = {**sae_settings, "weights": str(sae_folder)}
    both = [metadata(sae_folder)["model"]["sha256"][:12], provenance.file_hash(other_model / "model.safetensors")[:12]]
    with pytest.raises(FggError) as error:
        build_sae.build(other_model, data, LAYER, settings, tmp_path / "out")
    said = str(error.value)
    assert all(each in said for each in both) and both[0] != both[1]
    assert "was made for the model vit_tiny_patch16_224 (sha256 " in said
    assert "sae.weights: train" in said and "sae.place: unchecked" in said
    assert not (tmp_path / "out").exists()
    measured = build_sae.build(other_model, data, LAYER, {**settings, "place": "unchecked"}, tmp_path / "out")
    found = metadata(tmp_path / "out")
    assert measured["place"] == found["place"] == "unchecked"
    assert found["model"]["sha256"][:12] == both[1] and found["source"]["model"]["sha256"][:12] == both[0]
    assert found["kind"] == "trained" and found["tokens_seen"] == 49152, "what it learnt from stays"


def test_an_sae_of_another_width_names_both_widths(model_folder):
    model, _, _ = model_files.load(model_folder, CPU)
    with pytest.raises(
        FggError, match=r"has width 12, but the model's residual stream has 24; .* give an SAE of this one"
    ):
        check_sae(made(width=12), model, LAYER)


def test_another_dataset_is_said_but_not_refused(sae_folder, model_folder, data, sae_settings, tmp_path, capsys):
    elsewhere = tmp_path / "prepared"
    shutil.copytree(data, elsewhere)
    record = json.loads((elsewhere / "dataset.json").read_text()) | {"dataset": "large"}
    (elsewhere / "dataset.json").write_text(json.dumps(record))
    settings = {**sae_settings, "weights": str(sae_folder)}
    assert build_sae.build(model_folder, elsewhere, LAYER, settings, tmp_path / "out")["place"] == "checked"
    assert "note: layer 1: the SAE was trained on the dataset 'tiny', and is used on 'large'" in capsys.readouterr().out
    assert metadata(tmp_path / "out")["dataset"] == "tiny"


def test_a_copy_of_an_sae_keeps_its_origin(sae_folder, model_folder, data, sae_settings, tmp_path):
    build_sae.build(model_folder, data, LAYER, {**sae_settings, "seed": 9, "weights": str(sae_folder)}, tmp_path)
    assert metadata(tmp_path) == metadata(sae_folder)


def made(width=WIDTH):
    draw = torch.Generator().manual_seed(1)
    shapes = {"W_enc": (width, FEATURES), "W_dec": (FEATURES, width), "b_enc": (FEATURES,), "b_dec": (width,)}
    return make_sae({name: torch.randn(shape, generator=draw) for name, shape in shapes.items()})


@pytest.mark.parametrize(
    "said", [{}, {"model": "clip-vit"}, {"model": {"name": "x"}}, {"layer": "1"}, {"seed": 5}], ids=str
)
def test_an_sae_without_provenance_still_loads(said, data, model_folder, sae_settings, tmp_path):
    sae = made()
    for key, value in {**said, "note": "mine"}.items():
        setattr(sae.cfg.metadata, key, value)
    build_sae.save_inference(sae, tmp_path / "own")
    measured = build_sae.build(
        model_folder, data, LAYER, {**sae_settings, "weights": str(tmp_path / "own")}, tmp_path / "out"
    )
    found = metadata(tmp_path / "out")
    assert (measured["kind"], measured["place"], found["kind"]) == ("loaded", "unknown", "loaded")
    assert found["dataset"] is None and found["tokens_seen"] is None and found["note"] == "mine"
    assert found["seed"] == said.get("seed") and found["normalisation"] == "none"
    assert found.get("source") == ({key: said[key] for key in ("model", "layer") if key in said} or None)


@pytest.mark.parametrize("own", [torch.nn.Module(), type("Own", (), {"cfg": type("Cfg", (), {"metadata": None})})()])
def test_an_own_module_says_nothing(own, model):
    own.W_dec = torch.zeros(FEATURES, WIDTH)
    assert provenance.metadata_of(own) == {}
    assert check_sae(own, model, LAYER) == "unknown"


def test_a_reconstruction_that_is_worse_than_none_is_a_warning(data, model_folder, sae_settings, tmp_path, capsys):
    build_sae.save_inference(made(), tmp_path / "own")
    settings = {**copy.deepcopy(sae_settings), "weights": str(tmp_path / "own")}
    measured = build_sae.build(model_folder, data, LAYER, settings, tmp_path / "out")
    (warning,) = json.loads((tmp_path / "out" / "metrics.json").read_text())["warnings"]
    assert measured["explained_variance"] < 0 and "is below 0: this SAE does not reconstruct these residuals" in warning
    assert f"warning: layer 1: {warning}" in capsys.readouterr().out


def test_a_good_sae_has_no_warning(sae_folder):
    found = json.loads((sae_folder / "metrics.json").read_text())
    assert found["warnings"] == [] and found["place"] == "checked" and found["kind"] == "trained"
