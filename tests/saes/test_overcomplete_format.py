"""overcomplete's SAEs: whole modules and state dicts, as its own classes compute them after eval(); no pickle runs anything."""

import json

import pytest
import torch
from sae_peers import FEATURES, LAYER, WIDTH, agree, fill, overcomplete, refusal, rows

from fgg.errors import FggError
from fgg.saes import build_sae
from fgg.saes.sae import check_sae, load_sae

POINTS = torch.randn(70, WIDTH, generator=torch.Generator().manual_seed(6))
KINDS = {
    "SAE": {}, "TopKSAE": {"top_k": 5}, "BatchTopKSAE": {"top_k": 200}, "JumpSAE": {}, "MpSAE": {"k": 4},
    "RATopKSAE": {"points": POINTS, "top_k": 5, "delta": 0.4}, "RAJumpSAE": {"points": POINTS, "delta": 2.0},
}  # fmt: skip


def make(kind, encoder=None, dictionary=None, **more):
    """An SAE of overcomplete with random weights, as training leaves it: the dictionary is not normalised."""
    overcomplete()
    from overcomplete import sae as library

    options = {**KINDS.get(kind, {}), **more}
    if dictionary is not None:
        options["dictionary_params"] = dictionary
    if encoder is not None:
        options["encoder_module"] = encoder
    sae = fill(getattr(library, kind)(WIDTH, FEATURES, **options))
    if kind == "BatchTopKSAE":
        sae.train()
        for part in rows(60, seed=7).split(20):
            sae.encode(part)  # sets the running threshold
    return sae


def agreed(sae, path):
    sae.eval()
    return agree(load_sae(path), lambda x: sae.encode(x)[1], sae.decode)


def settings_of(sae, **more):
    """config.json as the message of fgg asks for it."""
    found = {"class": type(sae).__name__, "normalization": "l2"}
    for name in ("top_k", "k"):
        if hasattr(sae, name):
            found[name] = getattr(sae, name)
    if getattr(sae, "running_threshold", None) is not None:
        found["running_threshold"] = float(sae.running_threshold)
    if hasattr(sae.dictionary, "delta"):
        found["delta"] = sae.dictionary.delta
    return found | more


def save_state(sae, folder, state=None, **more):
    tensors = {**sae.state_dict(), **(state or {})}
    torch.save({key: value for key, value in tensors.items() if value is not None}, folder / "sae.pt")
    (folder / "config.json").write_text(json.dumps(settings_of(sae, **more)))
    return folder


# ---- agreement


@pytest.mark.parametrize("trained", [True, False], ids=["before eval()", "after eval()"])
@pytest.mark.parametrize("kind", KINDS)
def test_whole_modules_agree(kind, trained, tmp_path):
    sae = make(kind)
    if not trained:
        sae.eval()
    torch.save(sae, tmp_path / "sae.pt")
    agreed(sae, tmp_path / "sae.pt")
    assert torch.equal(load_sae(tmp_path).W_dec, load_sae(tmp_path / "sae.pt").W_dec), "the folder"


@pytest.mark.parametrize("kind", KINDS)
def test_state_dicts_agree(kind, tmp_path):
    sae = make(kind)
    save_state(sae, tmp_path)
    agreed(sae, tmp_path)
    agreed(sae, tmp_path / "sae.pt")


def test_a_state_dict_and_its_settings_in_one_file(tmp_path):
    sae = make("TopKSAE")
    torch.save({"state_dict": sae.state_dict(), **settings_of(sae)}, tmp_path / "topk.pth")
    agreed(sae, tmp_path / "topk.pth")


@pytest.mark.parametrize("form", ["module", "state"])
@pytest.mark.parametrize("normalization", ["l2", "max_l2", "l1", "max_l1", "identity"])
def test_every_normalisation_of_the_dictionary_and_its_multiplier(normalization, form, tmp_path):
    sae = make("SAE", dictionary={"normalization": normalization, "use_multiplier": True})
    if form == "module":
        torch.save(sae, tmp_path / "sae.pt")
    else:
        save_state(sae, tmp_path, normalization=normalization)
    agreed(sae, tmp_path)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", ["module", "state"])
@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied_encoders(tied, form, bias, tmp_path):
    sae = make("TopKSAE")
    fill((sae.tied if tied else sae.untied)(bias=bias), seed=8)
    if form == "module":
        torch.save(sae, tmp_path / "sae.pt")
    else:
        save_state(sae, tmp_path)
    agreed(sae, tmp_path)


@pytest.mark.parametrize("form", ["module", "state"])
def test_batch_norm_is_folded_in(form, tmp_path):
    sae = make("JumpSAE", encoder="mlp_bn_1")
    sae.train()
    for part in rows(200, scale=2.0, seed=9).split(50):
        sae.encode(part)  # sets the running statistics
    if form == "module":
        torch.save(sae, tmp_path / "sae.pt")
    else:
        save_state(sae, tmp_path)
    agreed(sae, tmp_path)


def test_a_code_that_equals_the_threshold_stays(tmp_path):
    sae = make("BatchTopKSAE")
    with torch.no_grad():
        sae.encoder.final_block[0].weight.zero_()
        sae.encoder.final_block[0].bias.copy_(torch.linspace(0, 1, FEATURES))
    sae.running_threshold = sae.encoder.final_block[0].bias[20].detach().clone()
    torch.save(sae.eval(), tmp_path / "sae.pt")
    codes = load_sae(tmp_path).encode(torch.zeros(1, WIDTH))
    assert torch.equal(codes, sae.encode(torch.zeros(1, WIDTH))[1]) and codes[0, 20] > 0 and codes[0, 19] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_through_a_run(kind, data, model_folder, sae_settings, tmp_path):
    save_state(make(kind), tmp_path, hook_name="blocks.1.hook_resid_post", layer=LAYER)
    measured = build_sae.build(model_folder, data, LAYER, {**sae_settings, "weights": str(tmp_path)}, tmp_path / "out")
    assert measured["place"] == "checked" and measured["features"] == FEATURES
    assert torch.equal(load_sae(tmp_path / "out").encode(rows()), load_sae(tmp_path).encode(rows()))


def test_the_place_is_checked(tmp_path, model):
    sae = load_sae(save_state(make("SAE"), tmp_path, layer=3))
    with pytest.raises(FggError, match="for layer 1 was trained on layer 3"):
        check_sae(sae, model, LAYER)


# ---- refusals


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("QSAE", {}, "a QSAE cannot be read: its codes are quantised"),
        ("OMPSAE", {"k": 2}, "a OMPSAE cannot be read: its codes solve a least-squares problem"),
        ("TopKSAE", {"encoder": "mlp_ln_1"}, r"its encoder is not linear \(layer norm\)"),
        ("TopKSAE", {"encoder": "mlp_bn_3"}, r"its encoder is not linear \(encoder\.mlp_blocks"),
        ("TopKSAE", {"top_k": FEATURES + 1}, "top_k is 49, more than its 48 features"),
    ],
)
@pytest.mark.parametrize("form", ["module", "state"])
def test_what_no_sae_of_sae_lens_computes(kind, options, message, form, tmp_path):
    sae = make(kind, **options)
    if form == "module":
        torch.save(sae, tmp_path / "sae.pt")
    else:
        save_state(sae, tmp_path)
    with pytest.raises(FggError, match=message):
        load_sae(tmp_path)


def test_a_threshold_that_was_never_set(tmp_path):
    overcomplete()
    from overcomplete.sae import BatchTopKSAE

    sae = BatchTopKSAE(WIDTH, FEATURES, top_k=9)
    torch.save(sae, tmp_path / "sae.pt")
    assert "needs its running_threshold, which is not in its state dict and is None" in refusal(tmp_path)
    save_state(sae, tmp_path)
    assert "and beside it config.json with class" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("kind", "more", "state", "message"),
    [
        ("SAE", {"class": "Transcoder"}, {}, "this is a transcoder or crosscoder"),
        ("SAE", {"class": "MySAE"}, {}, "class 'MySAE' is not supported; fgg reads SAE, TopKSAE"),
        ("SAE", {"normalization": "l3"}, {}, "normalization 'l3' is unknown"),
        ("SAE", {"normalization": None}, {}, "not of unit norm, and nothing says how it is normalised"),
        ("TopKSAE", {"class": "JumpSAE"}, {}, "a JumpSAE needs thresholds"),
        ("JumpSAE", {}, {"thresholds": torch.ones(3)}, r"thresholds is \(3,\), expected one number"),
        ("RATopKSAE", {"delta": None}, {}, "an archetypal dictionary needs its delta"),
        ("SAE", {}, {"dictionary._weights": torch.ones(3)}, r"dictionary\._weights is \(3,\), expected two dimensions"),
        ("SAE", {}, {"dictionary._weights": torch.ones(5, WIDTH)}, r"W_dec is \(5, 24\), expected \(48, 24\)"),
        ("SAE", {}, {"encoder.final_block.0.bias": torch.ones(3)}, r"b_enc is \(3,\), expected \(48,\)"),
        ("SAE", {}, {"encoder.final_block.0.bias": torch.full((FEATURES,), torch.nan)}, "NaN or infinite values in b_enc"),
        ("SAE", {}, {"encoder.final_block.0.bias": "text"}, "is not a dense tensor"),
        ("SAE", {}, {"encoder.final_block.0.weight": None, "encoder.final_block.0.bias": None}, "has no encoder"),
        ("SAE", {"normalization": "identity"}, {"encoder.final_block.0.weight": torch.ones(0, WIDTH),
         "encoder.final_block.0.bias": torch.ones(0), "dictionary._weights": torch.ones(0, WIDTH)}, "has 0 features"),
        ("MpSAE", {}, {"encoder.weight": torch.ones(FEATURES, WIDTH)}, "changes the activations before the pursuit"),
    ],
)  # fmt: skip
def test_refusals(kind, more, state, message, tmp_path):
    save_state(make(kind), tmp_path, state, **more)
    with pytest.raises(FggError, match=message) as error:
        load_sae(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_state_dict_without_settings_names_the_remedy(tmp_path):
    torch.save(make("TopKSAE").state_dict(), tmp_path / "sae.pt")
    said = refusal(tmp_path / "sae.pt")
    assert "does not say of which class" in said and "torch.save(sae.state_dict(), 'sae.pt')" in said


class Foreign(torch.nn.Module):
    """An encoder of the user's own."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(WIDTH, FEATURES)


def test_modules_of_other_packages_are_refused_with_the_remedy(tmp_path):
    torch.save(make("SAE", encoder=Foreign()), tmp_path / "sae.pt")
    said = refusal(tmp_path)
    assert "its pickle asks for test_overcomplete_format.Foreign" in said and "torch.save(sae.state_dict()" in said


def test_no_code_of_the_file_or_of_the_library_runs(tmp_path, monkeypatch):
    import os
    import sys

    sae = make("TopKSAE")
    torch.save(sae, tmp_path / "sae.pt")
    sae.trap = Call(os.system, f"touch {tmp_path / 'ran'}")
    torch.save(sae, tmp_path / "trap.pt")
    monkeypatch.setitem(sys.modules, "overcomplete.sae.topk_sae", None)  # an import would fail
    assert load_sae(tmp_path / "sae.pt").cfg.architecture() == "topk"
    assert "asks for posix.system" in refusal(tmp_path / "trap.pt") and not (tmp_path / "ran").exists()


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function, *given):
        self.call = function, given

    def __reduce__(self):
        return self.call


def test_another_activation_at_the_end_of_the_encoder(tmp_path):
    sae = make("SAE")
    sae.encoder.final_activation = torch.nn.GELU()
    torch.save(sae, tmp_path / "sae.pt")
    assert "its encoder ends with GELU; fgg reads ReLU" in refusal(tmp_path)


def test_damaged_files(tmp_path):
    torch.save(make("SAE"), tmp_path / "sae.pt")
    whole = (tmp_path / "sae.pt").read_bytes()
    for end in (len(whole) // 2, len(whole) - 1):
        (tmp_path / "sae.pt").write_bytes(whole[:end])
        assert "damaged" in refusal(tmp_path / "sae.pt")
    at = whole.index(b"overcomplete.sae")
    (tmp_path / "sae.pt").write_bytes(whole[: at + 20] + b"????" + whole[at + 24 :])
    assert "the file is damaged" in refusal(tmp_path / "sae.pt")
