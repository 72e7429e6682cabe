"""dictionary_learning's folders: each class with random weights, as the library's own loader reads and computes it."""

import json

import pytest
import torch
from sae_peers import FEATURES, LAYER, WIDTH, agree, dictionary_learning, fill, refusal, rows

from fgg.errors import FggError
from fgg.saes import build_sae
from fgg.saes.formats.dictionary_learning import LAYOUTS
from fgg.saes.sae import check_sae, load_sae

TRAINERS = {  # class of the dictionary -> module and name of the trainer, and its own arguments
    "AutoEncoder": ("standard", "StandardTrainer", {}),
    "GatedAutoEncoder": ("gdm", "GatedSAETrainer", {}),
    "AutoEncoderTopK": ("top_k", "TopKTrainer", {"k": 5}),
    "BatchTopKSAE": ("batch_top_k", "BatchTopKTrainer", {"k": 5}),
    "MatryoshkaBatchTopKSAE": ("matryoshka_batch_top_k", "MatryoshkaBatchTopKTrainer",
                               {"k": 5, "group_fractions": [0.25, 0.75]}),
    "JumpReluAutoEncoder": ("jumprelu", "JumpReluTrainer", {}),
}  # fmt: skip
THRESHOLD = 0.6


@pytest.fixture
def save(tmp_path):
    """A function: class, changes to the trainer's settings, the buffer's, the state -> the folder as trainSAE writes it."""

    def save(kind, trainer=None, buffer=None, state=None, **more):
        module, name, options = TRAINERS.get(kind, TRAINERS["AutoEncoder"])
        made = getattr(dictionary_learning(f"trainers.{module}"), name)(
            steps=9000, activation_dim=WIDTH, dict_size=FEATURES, layer=LAYER, lm_name="none", device="cpu", **options
        )
        own, config = made.ae, made.config
        if kind == "AutoEncoderNew":
            own = dictionary_learning("dictionary").AutoEncoderNew(WIDTH, FEATURES)
            config = {**config, "dict_class": kind}
        fill(own)
        if hasattr(own, "threshold"):
            own.threshold.data.fill_(THRESHOLD)
        if kind == "JumpReluAutoEncoder":  # one threshold for each feature
            own.threshold.data.copy_(torch.linspace(-0.2, 1, FEATURES))
        folder = tmp_path / "trainer_0"
        folder.mkdir(exist_ok=True)
        settings = {"trainer": {**config, **(trainer or {})}, "buffer": {"io": "out", **(buffer or {})}, **more}
        (folder / "config.json").write_text(json.dumps(settings, indent=4))
        tensors = {key: value.cpu() for key, value in own.state_dict().items()} | (state or {})
        torch.save({key: value for key, value in tensors.items() if value is not None}, folder / "ae.pt")
        return folder

    return save


@pytest.fixture
def quiet(capsys):
    """The library prints when it scales a decoder."""
    yield
    capsys.readouterr()


# ---- agreement


@pytest.mark.parametrize("kind", LAYOUTS)
def test_it_agrees_with_the_library(kind, save, quiet):
    folder = save(kind)
    theirs, _ = dictionary_learning("utils").load_dictionary(str(folder), "cpu")
    ours = load_sae(folder)
    agree(ours, theirs.encode, theirs.decode)
    assert torch.equal(load_sae(folder / "ae.pt").W_dec, ours.W_dec)
    assert torch.equal(ours.decode(ours.encode(rows())), ours(rows()))


def test_the_decoder_of_an_autoencoder_is_scaled_as_the_library_scales_it(save, quiet):
    sae = load_sae(save("AutoEncoder"))
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(FEATURES), atol=1e-5)
    assert not torch.allclose(load_sae(save("AutoEncoderNew")).W_dec.norm(dim=1), torch.ones(FEATURES), atol=0.1)


def test_an_average_norm_of_the_activations_is_in_the_biases(save, quiet):
    """TrainSAE divides the activations by norm_factor, and multiplies the biases by it before it saves."""
    module = dictionary_learning("dictionary")
    sae, factor, x = fill(module.AutoEncoderNew(WIDTH, FEATURES)), 3.0, rows(scale=3.0)
    within = sae.encode(x / factor)
    sae.encoder.bias.data *= factor
    sae.decoder.bias.data *= factor
    ours = load_sae(save("AutoEncoderNew", trainer={"norm_factor": factor}, state=dict(sae.state_dict())))
    assert torch.allclose(ours.encode(x), factor * within, atol=1e-4)


@pytest.mark.parametrize("kind", ["BatchTopKSAE", "AutoEncoderTopK"])
def test_checkpoints_of_a_training(kind, save, quiet):
    folder = save(kind)
    (folder / "checkpoints").mkdir()
    (folder / "ae.pt").rename(folder / "checkpoints" / "ae_500.pt")
    theirs = getattr(dictionary_learning(f"trainers.{TRAINERS[kind][0]}"), kind)
    own = theirs.from_pretrained(str(folder / "checkpoints" / "ae_500.pt"), k=5)
    agree(load_sae(folder / "checkpoints" / "ae_500.pt"), own.encode, own.decode)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_it_goes_through_a_run(kind, save, quiet, data, model_folder, sae_settings, tmp_path):
    folder = save(kind, trainer={"submodule_name": f"resid_post_layer_{LAYER}"})
    settings = {**sae_settings, "weights": str(folder)}
    measured = build_sae.build(model_folder, data, LAYER, settings, tmp_path / "out")
    assert measured["place"] == "checked" and measured["width"] == WIDTH
    assert torch.equal(load_sae(tmp_path / "out").encode(rows()), load_sae(folder).encode(rows()))


# ---- place


@pytest.mark.parametrize(
    ("trainer", "buffer", "hook"),
    [
        ({"submodule_name": "resid_post_layer_1"}, {}, "resid_post_layer_1"),
        ({"submodule_name": "resid_post_layer_2", "layer": 2}, {"io": "in"}, "blocks.2.hook_resid_pre"),
        ({}, {}, None),
    ],
)
def test_the_place_is_kept(trainer, buffer, hook, save, quiet, model):
    sae = load_sae(save("BatchTopKSAE", trainer, buffer))
    assert sae.cfg.metadata.hook_name == hook
    assert check_sae(sae, model, LAYER) == ("checked" if hook else "unknown")
    with pytest.raises(FggError, match="for layer 3 was trained on"):
        check_sae(sae, model, 3)


@pytest.mark.parametrize("name", ["mlp_layer_1", "attn_out_layer_1", "mlp_1"])
def test_a_place_inside_the_block_is_refused(name, save, quiet, model):
    sae = load_sae(save("AutoEncoder", {"submodule_name": name}))
    with pytest.raises(FggError, match="inside block 1"):
        check_sae(sae, model, LAYER)


# ---- refusals


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("AutoEncoder", {"trainer": {"dict_class": "CrossCoder"}}, "this is a transcoder or crosscoder"),
        ("AutoEncoder", {"trainer": {"dict_class": "BatchTopKCrossCoder"}}, "this is a transcoder or crosscoder"),
        ("AutoEncoder", {"trainer": {"dict_class": "Transcoder"}}, "this is a transcoder or crosscoder"),
        ("AutoEncoder", {"buffer": {"io": "in_and_out"}}, "a transcoder, which maps one place"),
        ("AutoEncoder", {"trainer": {"dict_class": "IdentityDict"}}, "class 'IdentityDict' is not supported"),
        ("AutoEncoder", {"trainer": {"dict_class": None}}, "class None is not supported; fgg reads AutoEncoder, "),
        ("AutoEncoder", {"trainer": {"activation_norm": 2.5}}, "whether that is in the weights"),
        ("AutoEncoder", {"buffer": {"normalize_activations": True}}, "whether that is in the weights"),
        ("AutoEncoder", {"trainer": {"activation_dim": 12}}, "activation_dim is 12 in the configuration, but the weights have 24"),
        ("AutoEncoder", {"trainer": {"dict_size": 7}}, "dict_size is 7 in the configuration"),
        ("AutoEncoder", {"state": {"bias": None}}, "lacks bias"),
        ("AutoEncoder", {"state": {"more": torch.ones(2)}}, "has unknown more"),
        ("AutoEncoder", {"state": {"bias": torch.ones(3)}}, r"b_dec is \(3,\), expected \(24,\)"),
        ("AutoEncoder", {"state": {"encoder.weight": torch.ones(3)}}, r"encoder.weight is \(3,\), expected two"),
        ("AutoEncoder", {"state": {"encoder.bias": torch.full((FEATURES,), torch.nan)}}, "NaN or infinite values in b_enc"),
        ("AutoEncoder", {"state": {"decoder.weight": torch.zeros(WIDTH, FEATURES)}}, "a decoder of zeros"),
        ("AutoEncoder", {"state": {"bias": "text"}}, "bias is not a dense tensor"),
        ("AutoEncoderTopK", {"trainer": {"k": FEATURES + 1}, "state": {"k": None}}, "k is 49, more than its 48 features"),
        ("AutoEncoderTopK", {"trainer": {"k": 6}}, r"k is 6 in config\.json, but 5 in the weights"),
        ("AutoEncoderTopK", {"trainer": {"k": 0}}, "k must be a whole number of at least 1"),
        ("BatchTopKSAE", {"state": {"threshold": torch.tensor(-1.0)}}, "threshold was never set"),
        ("MatryoshkaBatchTopKSAE", {"state": {"threshold": torch.tensor(-1.0)}}, "threshold was never set"),
        ("BatchTopKSAE", {"state": {"threshold": None}}, "lacks threshold"),
        ("JumpReluAutoEncoder", {"state": {"threshold": torch.ones(3)}}, r"threshold is \(3,\), expected one number or \(48,\)"),
        ("AutoEncoderNew", {"trainer": {"dict_size": 0}, "state": {
            "encoder.weight": torch.ones(0, WIDTH), "decoder.weight": torch.ones(WIDTH, 0), "encoder.bias": torch.ones(0)}},
            "has 0 features of width 24"),
    ],
)  # fmt: skip
def test_refusals(kind, options, message, save, quiet):
    with pytest.raises(FggError, match=message) as error:
        load_sae(save(kind, **options))
    assert "trainer_0" in str(error.value)


def test_settings_that_are_missing_or_damaged(save, quiet):
    folder = save("AutoEncoder")
    for text, message in (
        ("{", "is not valid JSON"),
        ("[]", "must hold a JSON object"),
        ("{}", "no settings of the trainer"),
    ):
        (folder / "config.json").write_text(text)
        assert message in refusal(folder)
    (folder / "config.json").unlink()
    assert "there is no config.json beside it" in refusal(folder)


def test_damaged_weights(save, quiet):
    file = save("AutoEncoder") / "ae.pt"
    whole = file.read_bytes()
    for end in (0, 10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:end])
        said = refusal(file.parent)
        assert "damaged" in said or "empty" in said
    at = len(whole) // 2
    file.write_bytes(whole[:at] + bytes(byte ^ 255 for byte in whole[at : at + 8]) + whole[at + 8 :])
    assert "the file is damaged" in refusal(file.parent)


def test_a_whole_module_is_refused(save, quiet):
    folder = save("AutoEncoder")
    torch.save(dictionary_learning("dictionary").AutoEncoderNew(WIDTH, FEATURES), folder / "ae.pt")
    assert "its pickle asks for dictionary_learning.dictionary.AutoEncoderNew" in refusal(folder)
