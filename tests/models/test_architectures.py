"""Models of every kind, from a checkpoint to logits: they are those of timm itself."""

import copy

import pytest
import timm
import torch
from brought import prefixed
from zoo import make_images, randomise

import fgg
from fgg.data.load import load_split
from fgg.errors import FggError
from fgg.models import build_model, model_files
from fgg.models.vit import check_images, grid_size, load_model, patch_size
from fgg.saes import build_sae

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 3}
KINDS = {
    "deit_tiny_distilled_patch16_224": {},
    "beit_base_patch16_224": {},
    "beitv2_base_patch16_224": {"img_size": (16, 32)},
    "eva02_tiny_patch14_224": {"num_heads": 2},
    "eva02_base_patch14_448": {"num_heads": 2},
    "eva_giant_patch14_224": {},
    "vit_base_patch16_dinov3": {"num_heads": 2},
    "vit_base_patch16_rope_mixed_224": {"num_heads": 2},
    "vit_pe_core_tiny_patch16_384": {"num_heads": 2},
    "vit_relpos_small_patch16_224": {},
    "vit_relpos_base_patch16_clsgap_224": {},
    "vit_srelpos_small_patch16_224": {},
    "vit_small_patch16_18x2_224": {},
    "vit_base_patch16_xp_224": {},
    "vit_dlittle_patch16_reg1_gap_256": {"num_heads": 2},
    "vit_little_patch16_reg1_gap_256": {},
    "vit_base_patch14_reg4_dinov2": {"img_size": 32},
}


def theirs(name):
    return randomise(timm.create_model(name, **SMALL | KINDS[name]))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", KINDS)
def test_logits_are_timms(name, prefix, tmp_path):
    other = theirs(name)
    torch.save({"state_dict": prefixed(prefix, other.state_dict())}, tmp_path / "w.pth")
    model = load_model(name, SMALL | KINDS[name], tmp_path / "w.pth")
    images = make_images(model, 3)
    with torch.no_grad():
        torch.testing.assert_close(model(images), other(images), atol=1e-6, rtol=0)
    assert type(model) is type(other)
    assert grid_size(model)[0] * patch_size(model)[0] == images.shape[2]


@pytest.mark.parametrize(
    "name", ["beit_base_patch16_224", "eva02_tiny_patch14_224", "vit_relpos_base_patch16_clsgap_224"]
)
def test_tables_of_positions_in_the_file(name, tmp_path, capsys):
    """Microsoft's and BAAI's own files hold what timm computes."""
    other = theirs(name)
    state = dict(other.state_dict())
    tables = {key: value for key, value in other.named_buffers() if key not in state and "index" in key}
    if "eva02" in name:
        tables = {"rope.freqs_cos": torch.zeros(16, 8), "blocks.0.attn.rope.freqs_sin": torch.zeros(16, 8)}
    assert tables
    torch.save(state | tables, tmp_path / "w.pth")
    load_model(name, SMALL | KINDS[name], tmp_path / "w.pth")
    assert "left out tables that timm computes" in capsys.readouterr().err
    if "eva02" not in name:
        wrong = {key: value.flip(0) for key, value in tables.items()}
        torch.save(state | wrong, tmp_path / "w.pth")
        with pytest.raises(FggError, match="another order of positions than the architecture, in blocks"):
            load_model(name, SMALL | KINDS[name], tmp_path / "w.pth")


def test_eva02_under_its_authors_names(tmp_path):
    name = "eva02_base_patch14_448"
    other = theirs(name)
    renames = (("mlp.fc1_g", "mlp.w1"), ("mlp.fc1_x", "mlp.w2"), ("mlp.fc2", "mlp.w3"), ("mlp.norm", "mlp.ffn_ln"))
    state = {}
    for key, value in other.state_dict().items():
        for ours, own in renames:
            key = key.replace(ours, own)
        state[key] = value
    assert any(".w1." in key for key in state) and any("ffn_ln" in key for key in state)
    torch.save(state, tmp_path / "w.pth")
    model = load_model(name, SMALL | KINDS[name], tmp_path / "w.pth")
    images = make_images(model, 2)
    with torch.no_grad():
        torch.testing.assert_close(model(images), other(images), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "other", "part"),
    [
        (
            "vit_tiny_patch16_224",
            "beit_base_patch16_224",
            "the weights of BEiT, EVA or a model with relative positions",
        ),
        ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "choose a distilled architecture"),
        ("vit_tiny_patch16_224", "vit_relpos_small_patch16_224", "does not fit the architecture"),
        ("deit_tiny_distilled_patch16_224", "vit_tiny_patch16_224", "missing: dist_token"),
        ("beit_base_patch16_224", "vit_tiny_patch16_224", "missing: blocks.0.gamma_1"),
    ],
)
def test_another_kinds_weights_are_refused(name, other, part, tmp_path):
    options = SMALL | {"num_heads": 2}
    torch.save(timm.create_model(other, **options).state_dict(), tmp_path / "w.pth")
    with pytest.raises(FggError, match=part):
        load_model(name, options, tmp_path / "w.pth")


def test_rotary_models_take_their_own_size_only():
    model = load_model("vit_base_patch16_dinov3", SMALL | {"num_heads": 2})
    check_images(model, torch.zeros(1, 3, 32, 32))
    with pytest.raises(FggError, match=r"images are \(48, 48\), but the model takes \(32, 32\)"):
        check_images(model, torch.zeros(1, 3, 48, 48))


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "beit_base_patch16_224", "eva02_tiny_patch14_224", "vit_relpos_small_patch16_224"])  # fmt: skip
def test_trained_saved_and_read_again(name, tmp_path, data, model_settings, sae_settings, capsys):
    """The commands of the workflow take every kind: training, the model's folder, an SAE of it, and its gate."""
    kwargs = {key: value for key, value in SMALL.items() if key != "num_classes"} | {"num_heads": 2, "depth": 3}
    settings = copy.deepcopy(model_settings)
    settings["model"] |= {"architecture": name, "kwargs": kwargs, "train": settings["model"]["train"] | {"epochs": 1}}
    record = build_model.build(data, settings, tmp_path / "model")
    told = "needs all patches, so none is dropped" in capsys.readouterr().out
    assert told == (name.startswith(("beit", "vit_relpos")) and settings["model"]["train"]["patch_drop"] > 0)
    model, preprocess, _ = model_files.load(tmp_path / "model", torch.device("cpu"))
    assert len(record["layers"]) == 3 and record["architecture"] == name
    sae_options = copy.deepcopy(sae_settings)
    sae_options["train"] = (
        sae_options["train"] | {"epochs": 1} if "epochs" in sae_options["train"] else sae_options["train"]
    )
    build_sae.build(tmp_path / "model", data, 0, sae_options, tmp_path / "layer_0")
    images = load_split(data / "test.parquet").tensors(preprocess, slice(0, 2))
    found = fgg.attribute(model, images, gate=fgg.Gate(0), saes={0: fgg.load_sae(tmp_path / "layer_0")})
    assert found.relevance.isfinite().all() and found.relevance.std() > 0
