"""sae-lens folders: what its trainer leaves is read as sae-lens reads it, and what it would drop is computed or refused."""

import json

import pytest
import torch
from sae_lens import SAE
from sae_lens.registry import SAE_CLASS_REGISTRY, get_sae_training_class
from sae_lens.training.activation_scaler import ActivationScaler
from safetensors.torch import load_file, save_file

from fgg.errors import FggError
from fgg.saes import build_sae, normalisation
from fgg.saes.activations import Residuals
from fgg.saes.sae import build_sae as make_sae
from fgg.saes.sae import check_sae, load_sae, read_sae

LAYER, WIDTH, FEATURES = 1, 24, 48
TRANSCODERS = sorted(name for name in SAE_CLASS_REGISTRY if "transcoder" in name)


def tensors(width=WIDTH, features=FEATURES):
    draw = torch.Generator().manual_seed(1)
    shapes = {"W_enc": (width, features), "W_dec": (features, width), "b_enc": (features,), "b_dec": (width,)}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def rows_of(count=40, scale=1.0):
    return scale * torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def folder(tmp_path):
    """A function: changes to a standard SAE's config (None drops a key) and its tensors -> its folder."""

    def make(tensors_=None, **changes):
        place = tmp_path / "sae"
        build_sae.save_inference(make_sae(tensors()), place)
        config = json.loads((place / "cfg.json").read_text()) | changes
        (place / "cfg.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        if tensors_ is not None:
            save_file(tensors_, place / "sae_weights.safetensors")
        return place

    return make


def legacy(**changes):
    """A config as sae-lens wrote it before version 6."""
    return {"architecture": "standard", "d_in": WIDTH, "d_sae": FEATURES, "dtype": "float32", "device": "cpu",
            "activation_fn_str": "relu", "hook_name": "blocks.1.hook_resid_post", "hook_layer": 1,
            "normalize_activations": "none", **changes}  # fmt: skip


@pytest.fixture
def old(tmp_path):
    """A function: changes to a legacy config (None drops a key) -> the folder of an SAE with it."""

    def make(**changes):
        place = tmp_path / "old"
        place.mkdir(exist_ok=True)
        config = {key: value for key, value in legacy(**changes).items() if value is not None}
        (place / "cfg.json").write_text(json.dumps(config))
        save_file(tensors(), place / "sae_weights.safetensors")
        return place

    return make


def refusal(place):
    with pytest.raises(FggError) as error:
        load_sae(place)
    assert str(place) in str(error.value)
    return str(error.value)


# ---- transcoders


@pytest.mark.parametrize("architecture", TRANSCODERS)
def test_transcoders_of_sae_lens_are_refused(architecture, tmp_path, model):
    assert {"transcoder", "jumprelu_transcoder"} <= set(TRANSCODERS)
    own, config = SAE_CLASS_REGISTRY[architecture]
    made = own(config(d_in=WIDTH, d_out=WIDTH, d_sae=FEATURES, apply_b_dec_to_input=False))
    made.save_model(tmp_path / "sae")
    said = refusal(tmp_path / "sae")
    assert "this is a transcoder, which maps one place of a model to another" in said and "give an SAE" in said
    with pytest.raises(FggError, match="which maps one place of a model to another"):
        check_sae(made, model, LAYER)


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "crosscoder"},
        {"is_transcoder": True},
        {"metadata": {"hook_name": "blocks.1.hook_resid_mid", "hook_name_out": "blocks.1.hook_mlp_out"}},
        {"hook_name_out": "blocks.1.hook_mlp_out"},
        {"d_out": WIDTH + 1},
    ],
    ids=str,
)
def test_what_maps_to_another_place_is_refused(changes, folder):
    assert "which maps one place of a model to another" in refusal(folder(**changes))


def test_the_same_place_in_and_out_is_an_sae(folder):
    same = {"hook_name": "blocks.1.hook_resid_post", "hook_name_out": "blocks.1.hook_resid_post"}
    assert load_sae(folder(metadata={**same, "sae_lens_version": "6.40.0"}, d_out=WIDTH)).encode(rows_of()).any()


# ---- activations


@pytest.mark.parametrize("key", ["activation_fn_str", "activation_fn"])
@pytest.mark.parametrize("name", ["tanh-relu", "tanh_relu", "Tanh-ReLU"])
def test_tanh_relu_is_computed_and_not_written(old, key, name, data, model_folder, sae_settings, tmp_path):
    place = old(**{"activation_fn_str": None, key: name})
    t, rows = tensors(), rows_of()
    expected = ((rows - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).clamp(min=0).tanh()
    sae = load_sae(place)
    assert torch.allclose(sae.encode(rows), expected, atol=1e-5)
    assert torch.allclose(sae.decode(sae.encode(rows)), expected @ t["W_dec"] + t["b_dec"], atol=1e-4)
    with pytest.raises(FggError, match="a sae-lens folder cannot store a tanh-relu activation"):
        build_sae.build(model_folder, data, LAYER, {**sae_settings, "weights": str(place)}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_new_folder_that_says_tanh_relu_computes_it_too(folder):
    codes = load_sae(folder(activation_fn="tanh-relu")).encode(rows_of())
    assert torch.allclose(codes, load_sae(folder()).encode(rows_of()).tanh(), atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_fn_str": "gelu"},
        {"activation_fn_str": "topk"},
        {"activation_fn_str": "jumprelu"},
        {"activation_fn_str": "tanh-relu", "architecture": "gated"},
        {"activation_fn_str": "tanh-relu", "architecture": "jumprelu"},
    ],
    ids=str,
)
def test_other_activations_are_refused(old, changes):
    assert "is not one of the architecture" in refusal(old(**changes))


def test_a_legacy_top_k_is_one(old):
    sae = load_sae(old(activation_fn_str="topk", activation_fn_kwargs={"k": 5}))
    assert (sae.encode(rows_of()) > 0).sum(1).max() <= 5 and sae.cfg.architecture() == "topk"


def test_a_new_folder_cannot_call_a_standard_sae_top_k(folder):
    assert "belongs to the architecture topk" in refusal(folder(activation_fn="topk", k=5))


@pytest.mark.parametrize("where", ["hook_name", "hook_point"])
@pytest.mark.parametrize("hook", ["blocks.2.hook_resid_post", "blocks.1.hook_mlp_out"])
def test_the_place_of_a_legacy_folder_is_checked(old, where, hook, model):
    sae = load_sae(old(**{"hook_name": None, where: hook}))
    with pytest.raises(FggError, match=f"for layer 1 was trained on {hook}"):
        check_sae(sae, model, LAYER)
    assert check_sae(load_sae(old()), model, LAYER) == "checked"
    with pytest.raises(FggError, match="for layer 2 was trained on layer 1, not on"):
        check_sae(load_sae(old(hook_name=None)), model, 2)


# ---- features


@pytest.mark.parametrize("architecture", ["topk", "abstopk"])
@pytest.mark.parametrize(
    ("k", "message"),
    [
        (FEATURES + 1, "k is 49, more than its 48 features"),
        (0, "needs k, a whole number of at least 1"),
        (-1, "needs k, a whole number"),
        (2.5, "needs k, a whole number"),
        (True, "needs k, a whole number"),
        (None, "needs k, a whole number"),
    ],
)
def test_top_k_that_cannot_be(folder, architecture, k, message):
    assert message in refusal(folder(architecture=architecture, k=k))


def test_k_of_all_features(folder):
    assert load_sae(folder(architecture="topk", k=FEATURES)).encode(rows_of()).any()


@pytest.mark.parametrize("changes", [{}, {"architecture": "topk", "k": 1}, {"architecture": "batchtopk"}], ids=str)
def test_zero_features(folder, changes):
    said = refusal(folder(tensors(features=0), d_sae=0, **changes))
    assert "needs at least one feature" in said


@pytest.mark.parametrize("options", [{}, {"activation": "topk", "k": 1}], ids=str)
def test_no_feature_in_tensors(options):
    with pytest.raises(FggError, match="the SAE has 0 features of width 24; an SAE needs at least one"):
        make_sae(tensors(features=0), **options)


def test_more_active_features_than_there_are_in_tensors():
    with pytest.raises(FggError, match="k = 49 needs more than its 48 features"):
        make_sae(tensors(), activation="topk", k=49)


# ---- batch-top-k


def trainer(architecture, **changes):
    """An SAE of sae-lens' trainer, with decoder rows of several lengths and a threshold."""
    own, config = get_sae_training_class(architecture)
    more = {"matryoshka_widths": [8, FEATURES]} if "matryoshka" in architecture else {}
    sae = own(config(d_in=WIDTH, d_sae=FEATURES, k=4, **more, **changes))
    t = tensors()
    sae.load_state_dict({**t, "topk_threshold": torch.tensor(9.0)})
    return sae


BATCH = ("batchtopk", "matryoshka_batchtopk")


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("architecture", BATCH)
def test_batch_top_k_is_read_as_sae_lens_converts_it(architecture, rescale, tmp_path, data, model_folder, sae_settings):
    sae, rows = trainer(architecture, rescale_acts_by_decoder_norm=rescale), rows_of(scale=2.0)
    sae.save_model(tmp_path / "sae")
    sae.save_inference_model(tmp_path / "converted")
    theirs, ours = SAE.load_from_disk(tmp_path / "converted"), load_sae(tmp_path / "sae")
    codes = ours.encode(rows)
    assert ours.cfg.architecture() == "jumprelu" and codes.any()
    assert torch.equal(codes, theirs.encode(rows)) and torch.equal(ours.decode(codes), theirs.decode(codes))
    assert 0 < float((codes > 0).float().mean()) < 0.5 and codes[codes > 0].min() > 9, "the threshold is applied"
    settings = {**sae_settings, "weights": str(tmp_path / "sae")}
    measured = build_sae.build(model_folder, data, LAYER, settings, tmp_path / "out")
    assert measured["features"] == FEATURES
    assert torch.equal(load_sae(tmp_path / "out").encode(rows), codes)


@pytest.mark.parametrize("architecture", BATCH)
def test_a_threshold_under_another_name_or_per_feature(architecture, tmp_path):
    trainer(architecture).save_model(tmp_path)
    expected, file = load_sae(tmp_path).encode(rows_of(scale=2.0)), tmp_path / "sae_weights.safetensors"
    weights = load_file(file)
    threshold = weights.pop("topk_threshold").float()
    for form in (threshold, threshold.reshape(1), threshold.expand(FEATURES).contiguous()):
        save_file({**weights, "threshold": form}, file)
        assert torch.equal(load_sae(tmp_path).encode(rows_of(scale=2.0)), expected)
    save_file({**weights, "threshold": torch.ones(3)}, file)
    assert "cannot be read as a sae-lens SAE (threshold is (3,), expected (48,))" in refusal(tmp_path)


@pytest.mark.parametrize("architecture", BATCH)
def test_the_widths_and_k_do_not_matter_for_use(architecture, tmp_path):
    trainer(architecture).save_model(tmp_path)
    expected, config = load_sae(tmp_path).encode(rows_of()), json.loads((tmp_path / "cfg.json").read_text())
    config.pop("k"), config.pop("matryoshka_widths", None)
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    assert torch.equal(load_sae(tmp_path).encode(rows_of()), expected)


@pytest.mark.parametrize("architecture", BATCH)
def test_batch_top_k_without_a_threshold(architecture, folder):
    assert "needs the threshold that its training found" in refusal(folder(architecture=architecture))


# ---- normalisation


def scaled(rows):
    return WIDTH**0.5 / rows.norm(dim=1).mean()


@pytest.mark.parametrize("value", ["expected_average_only_in", True])
def test_a_scale_that_is_not_folded_is_refused_with_the_reason(old, value, model):
    place = old(normalize_activations=value)
    said = refusal(place)
    assert "scaled by a constant (expected_average_only_in) that is not folded into its weights" in said
    assert "in a run of fgg it is estimated on the training images" in said
    with pytest.raises(FggError, match="the SAE for layer 1 was trained on activations scaled"):
        check_sae(read_sae(place), model, LAYER)


@pytest.mark.parametrize("changes", [{}, {"architecture": "topk", "k": 4}], ids=str)
def test_the_workflow_estimates_and_folds_it(changes, folder, data, model_folder, sae_settings, tmp_path, capsys):
    from fgg.models import model_files

    place = folder(**changes, normalize_activations="expected_average_only_in")
    settings = {**sae_settings, "weights": str(place)}
    measured = build_sae.build(model_folder, data, LAYER, settings, tmp_path / "out")
    model, preprocess, _ = model_files.load(model_folder, torch.device("cpu"))
    rows = Residuals(model, preprocess, data / "train.parquet", LAYER, torch.device("cpu"), 0).first()
    factor = scaled(rows)
    assert measured["scaling_factor"] == pytest.approx(float(factor), rel=1e-5)
    assert (
        f"activations are scaled by {measured['scaling_factor']:.6g}, estimated on the training"
        in capsys.readouterr().out
    )
    ours, plain = load_sae(tmp_path / "out"), load_sae(folder(**changes))
    assert torch.allclose(ours.encode(rows), plain.encode(rows * factor), atol=1e-3)
    assert torch.allclose(ours.decode(ours.encode(rows)), plain.decode(plain.encode(rows * factor)) / factor, atol=1e-3)
    found = json.loads((tmp_path / "out" / "cfg.json").read_text())
    assert found["normalize_activations"] == "none" and found["metadata"]["normalisation"] == "expected_average_only_in"


def test_the_estimate_is_that_of_sae_lens():
    rows = rows_of(130, scale=3.0)
    theirs = ActivationScaler()
    theirs.estimate_scaling_factor(WIDTH, iter([rows]), 1)
    sae = make_sae(tensors())
    sae.cfg.normalize_activations = "expected_average_only_in"
    assert normalisation.fold_estimated(sae, rows.split(50), 16) == pytest.approx(theirs.scaling_factor, rel=1e-6)
    assert normalisation.unfolded(sae) is None


def test_whitening_that_is_not_folded_is_refused(folder, data, model_folder, sae_settings, tmp_path):
    place = folder(normalize_activations="covariance_whitening")
    assert "the whitening is neither folded into its weights nor saved with them" in refusal(place)
    with pytest.raises(FggError, match="whitened activations"):
        build_sae.build(model_folder, data, LAYER, {**sae_settings, "weights": str(place)}, tmp_path / "out")


@pytest.mark.parametrize("kind", ["expected_average_only_in", "covariance_whitening"])
@pytest.mark.parametrize("architecture", ["standard", *BATCH])
def test_the_statistics_beside_a_checkpoint_are_folded_in(architecture, kind, folder, tmp_path):
    place, rows = tmp_path / "sae", rows_of(400, scale=2.0) + 1
    if architecture == "standard":
        folder(normalize_activations=kind)
    else:
        trainer(architecture, normalize_activations=kind).save_model(place)
    scaler = ActivationScaler()
    if kind == "covariance_whitening":
        scaler.estimate_whitening(WIDTH, iter([rows]), 1)
    else:
        scaler.estimate_scaling_factor(WIDTH, iter([rows]), 1)
    scaler.save(str(place / "activation_scaler.json"))
    ours = load_sae(place)
    expected = make_sae(tensors()) if architecture == "standard" else trainer(architecture)
    if architecture == "standard":
        theirs = scaler.unscale(expected.decode(expected.encode(scaler.scale(rows))))
    else:  # JumpReLU by hand
        t, norm = tensors(), tensors()["W_dec"].norm(dim=1)
        hidden = ((scaler.scale(rows) - t["b_dec"]) @ t["W_enc"] + t["b_enc"]) * norm
        theirs = scaler.unscale((hidden * (hidden > 9) / norm) @ t["W_dec"] + t["b_dec"])
    assert torch.allclose(ours.decode(ours.encode(rows)), theirs, atol=2e-3)


@pytest.mark.parametrize("normalize", ["layer_norm", "constant_norm_rescale", "none"])
def test_what_is_applied_while_encoding_needs_no_folding(folder, normalize):
    assert normalisation.unfolded(load_sae(folder(normalize_activations=normalize))) is None


# ---- what sae-lens would drop or convert without a word


@pytest.mark.parametrize(
    ("hook", "fits"),
    [("blocks.1.hook_resid_post", True), ("blocks.0.hook_resid_post", False), ("blocks.1.hook_mlp_out", False)],
)
def test_metadata_without_a_version_is_kept(folder, model, hook, fits):
    sae = load_sae(folder(metadata={"hook_name": hook, "dataset_path": "mine"}))
    assert sae.cfg.metadata.hook_name == hook and sae.cfg.metadata["dataset_path"] == "mine"
    if fits:
        assert check_sae(sae, model, LAYER) == "checked"
    else:
        with pytest.raises(FggError, match=f"was trained on {hook}"):
            check_sae(sae, model, LAYER)


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.float8_e4m3fn], ids=str)
def test_quantised_weights_are_refused(folder, kind):
    whole = {name: (tensor * 10).to(kind) if name == "W_dec" else tensor for name, tensor in tensors().items()}
    with pytest.raises(FggError, match=r"quantised numbers in place of weights in W_dec \("):
        load_sae(folder(whole))
    with pytest.raises(FggError, match="quantised numbers in place of weights in W_dec"):
        make_sae(whole)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_floats_are_read(folder, kind):
    other = {name: tensor.to(kind) for name, tensor in tensors().items()}
    torch.testing.assert_close(load_sae(folder(other)).W_enc.detach(), tensors()["W_enc"], atol=2e-2, rtol=1e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"apply_b_dec_to_input": "no"}, "apply_b_dec_to_input must be true or false, not 'no'"),
        ({"apply_b_dec_to_input": 1}, "apply_b_dec_to_input must be true or false, not 1"),
        ({"reshape_activations": "hook_z"}, "outputs of heads"),
        ({"reshape_activations": "flat"}, "reshape_activations is 'flat'"),
    ],
    ids=str,
)
def test_settings_of_another_kind_are_refused(folder, changes, message):
    with pytest.raises(FggError, match=message):
        load_sae(folder(**changes))
