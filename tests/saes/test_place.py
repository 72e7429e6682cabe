"""The place that a hook names: the forms of several libraries, refused where it is another one, told where it is unknown."""

import json

import pytest

from fgg.errors import FggError
from fgg.saes import build_sae
from fgg.saes.place import check_place, in_words, understand
from fgg.saes.sae import build_sae as make_sae
from fgg.saes.sae import check_sae, load_sae

DEPTH, LAYER = 12, 7
WRAPPERS = ("", "model.", "module._orig_mod.", "vit.", "model.visual.trunk.")
END = [
    "blocks.7.hook_resid_post",
    "blocks.8.hook_resid_pre",
    "blocks.7",
    "blocks[7]",
    "blocks.-5",
    "blocks.7.output",
    "blocks.8.input",
    "encoder.layers.7",
    "vision_model.encoder.layers.7",
    "encoder.layer.7",
    "encoder.layer.7.output",
    "encoder.layers.encoder_layer_7",
    "visual.transformer.resblocks.7",
    "transformer.resblocks.7",
    "layers.7",
    "layer_7",
    "resid_post_layer_7",
    "resid_post_7",
    "resid_pre_8",
    "hidden_states.8",
    "Blocks.7.Hook_Resid_Post",
]
OTHER_LAYER = [
    "blocks.1.hook_resid_post",
    "blocks.8.hook_resid_post",
    "blocks.7.hook_resid_pre",
    "blocks.0.hook_resid_pre",
    "blocks.17.hook_resid_post",
    "blocks.6",
    "blocks.-1",
    "encoder.layers.8",
    "visual.transformer.resblocks.1",
    "resid_post_layer_8",
    "hidden_states.7",
    "blocks.3.something_new",
]
OTHER_PLACE = [
    "blocks.7.ln1.hook_normalized",
    "blocks.7.ln2",
    "blocks.7.mlp.hook_post",
    "blocks.7.mlp.hook_pre",
    "blocks.7.mlp",
    "blocks.7.mlp.fc1",
    "blocks.7.hook_mlp_out",
    "blocks.7.hook_mlp_in",
    "blocks.7.hook_attn_out",
    "blocks.7.attn.hook_z",
    "blocks.7.attn",
    "blocks.7.attn.proj",
    "blocks.7.hook_resid_mid",
    "blocks.7.norm2",
    "blocks.7.ls2",
    "blocks.7.drop_path1",
    "blocks.8.ln1.hook_normalized",
    "encoder.layers.7.self_attn",
    "encoder.layers.7.layer_norm1",
    "encoder.layer.7.output.dense",
    "encoder.layer.7.layernorm_before",
    "encoder.layer.7.intermediate",
    "visual.transformer.resblocks.7.mlp.c_fc",
    "visual.transformer.resblocks.7.ln_2",
    "resid_mid_7",
    "hook_embed",
    "hook_pos_embed",
    "hook_full_embed",
    "patch_embed",
    "ln_final.hook_normalized",
    "visual.ln_post",
    "norm",
    "head",
    "text_model.encoder.layers.7",
    "language_model.layers.7",
    "decoder.layers.7",
]
UNKNOWN = [
    "",
    "somewhere",
    "blocks",
    "blocks.7.something_new",
    "blocks.8.something_new",
    "layers.2.blocks.7",
    "blocks.0.7",
    "7",
]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("hook", END)
def test_the_end_of_the_block_in_every_form(hook, wrapper):
    assert understand(wrapper + hook, LAYER, DEPTH).layer == LAYER
    assert check_place({"hook_name": wrapper + hook}, LAYER, DEPTH) == "checked"


@pytest.mark.parametrize("hook", OTHER_LAYER + OTHER_PLACE)
def test_another_place_is_refused(hook):
    with pytest.raises(FggError) as error:
        check_place({"hook_name": hook}, LAYER, DEPTH)
    assert f"the SAE for layer 7 was trained on {hook}, not on blocks.7.hook_resid_post" in str(error.value)
    assert "use the SAE at its own layer, or set sae.place: unchecked" in str(error.value)
    assert check_place({"hook_name": hook}, LAYER, DEPTH, "unchecked") == "unchecked"


@pytest.mark.parametrize("hook", OTHER_LAYER)
def test_another_layer_is_told_apart_from_another_place(hook):
    place = understand(hook, LAYER, DEPTH)
    assert place.layer is not None or "block 3" in place.words


@pytest.mark.parametrize("hook", OTHER_PLACE)
@pytest.mark.parametrize("layer", range(DEPTH))
def test_another_place_fits_no_layer(hook, layer):
    assert understand(hook, layer, DEPTH).layer is None


@pytest.mark.parametrize("hook", UNKNOWN)
def test_what_cannot_be_understood_is_unknown(hook):
    metadata = {"hook_name": hook}
    assert check_place(metadata, LAYER, DEPTH) == "unknown"
    assert "(place: unknown)" in in_words(metadata, LAYER, "unknown") and hook in in_words(metadata, LAYER, "unknown")
    assert in_words(metadata, LAYER, "checked") is None


@pytest.mark.parametrize("key", ["layer", "hook_layer", "hook_point_layer"])
@pytest.mark.parametrize("hook", ["", "somewhere"])
def test_a_layer_beside_an_unknown_hook(hook, key):
    assert check_place({"hook_name": hook, key: LAYER}, LAYER, DEPTH) == "unknown"
    with pytest.raises(FggError, match=r"for layer 7 was trained on (layer 3|somewhere), not on blocks\.7"):
        check_place({"hook_name": hook, key: 3}, LAYER, DEPTH)


# ---- in the workflow

CASES = (
    "blocks.1.ln1.hook_normalized",
    "blocks.7.mlp.hook_post",
    "encoder.layers.7",
    "blocks.7",
    "visual.transformer.resblocks.7",
)


@pytest.fixture
def given(tmp_path, data, model_folder, sae_settings):
    """A function: a hook and settings -> the folder that the job writes for layer 1, and what it measured."""

    def build(hook, **settings):
        draw = make_random()
        draw.cfg.metadata.hook_name = hook
        build_sae.save_inference(draw, tmp_path / "own")
        own = {**sae_settings, "weights": str(tmp_path / "own"), **settings}
        return tmp_path / "out", build_sae.build(model_folder, data, 1, own, tmp_path / "out")

    return build


def make_random(width=24, features=48):
    import torch

    draw = torch.Generator().manual_seed(1)
    shapes = {"W_enc": (width, features), "W_dec": (features, width), "b_enc": (features,), "b_dec": (width,)}
    return make_sae({name: torch.randn(shape, generator=draw) for name, shape in shapes.items()})


@pytest.mark.parametrize("hook", CASES)
def test_the_cases_are_refused_and_nothing_is_written(given, tmp_path, hook):
    with pytest.raises(FggError, match=f"for layer 1 was trained on {hook}, not on"):
        given(hook)
    assert not (tmp_path / "out").exists()


def test_an_unknown_place_is_said_in_the_log_and_the_metrics(given, capsys):
    folder, measured = given("somewhere")
    assert measured["place"] == "unknown" == json.loads((folder / "metrics.json").read_text())["place"]
    said = capsys.readouterr().out
    assert "note: layer 1: the SAE says that it reads somewhere, which fgg does not understand; whether this is" in said
    metadata = load_sae(folder).cfg.metadata
    assert (metadata.hook_name, metadata.layer, metadata.place) == ("blocks.1.hook_resid_post", 1, "unknown")
    assert metadata.source == {"hook_name": "somewhere"} and metadata.kind == "loaded"


def test_the_users_word_is_enough_and_is_kept(given, capsys, model, data, model_folder, sae_settings, tmp_path):
    folder, measured = given("blocks.7.mlp.hook_post", place="unchecked")
    assert measured["place"] == "unchecked"
    assert (
        "note: layer 1: the SAE says that it reads blocks.7.mlp.hook_post; that this is the end"
        in capsys.readouterr().out
    )
    sae = load_sae(folder)
    assert check_sae(sae, model, 1) == "unchecked", "the gates use it without being asked again"
    assert sae.cfg.metadata.source == {"hook_name": "blocks.7.mlp.hook_post"}
    again = build_sae.build(model_folder, data, 1, {**sae_settings, "weights": str(folder)}, tmp_path / "again")
    assert again["place"] == "unchecked", "a copy of it does not become a checked one"
    assert load_sae(tmp_path / "again").cfg.metadata.source == {"hook_name": "blocks.7.mlp.hook_post"}


@pytest.mark.parametrize("hook", ["blocks.1.hook_resid_post", "blocks.2.hook_resid_pre", "encoder.layers.1"])
def test_the_right_place_is_checked_in_silence(given, capsys, hook):
    folder, measured = given(hook)
    assert measured["place"] == "checked" and "note:" not in capsys.readouterr().out
    assert load_sae(folder).cfg.metadata.hook_name == "blocks.1.hook_resid_post"
