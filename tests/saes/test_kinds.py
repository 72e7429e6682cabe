"""The controls of the dictionary: what each kind of SAE computes, that it is written as any SAE, and that gates read it."""

import copy
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sae_lens import SAE

import fgg
from fgg.errors import FggError
from fgg.models import model_files
from fgg.pipeline.configuration import check, schema_rules
from fgg.pipeline.parameters import Parameters
from fgg.saes import bases, build_sae, training
from fgg.saes import initial as start
from fgg.saes.activations import InMemory
from fgg.saes.sae import check_sae, load_sae

LAYER, WIDTH, SEED = 1, 24, 0
CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
CONTROLS = ("frozen_decoder", "untrained", "pca", "identity")
FEATURES = {"frozen_decoder": 48, "untrained": 48, "pca": 48, "identity": 48}
TRAIN = {"architecture": "topk", "k": 4, "l1": 0.3, "expansion": 2, "tokens": 20000, "batch_size": 128,
         "learning_rate": 1e-3, "normalize": "covariance_whitening"}  # fmt: skip


SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"


def configuration(**sae):
    model = {"architecture": "vit_tiny_patch16_224"}
    dataset = {"source": "elpv", "model": model, "preprocess": {}, "sae": {"layers": [1], **sae}}
    return check({"run": ["a"], "datasets": {"a": dataset}, "experiments": {"baselines": ["transmm"]}}, SCHEMA)


def test_the_configuration_knows_the_kinds():
    rules = schema_rules(SCHEMA)["$defs"]["sae"]["properties"]
    assert set(rules["kind"]["enum"]) == {"trained", *CONTROLS} and set(rules["place"]["enum"]) == {
        "checked",
        "unchecked",
    }
    own = configuration()["datasets"]["a"]["sae"]
    assert (own["kind"], own["place"]) == ("trained", "checked")
    assert configuration(kind="pca")["datasets"]["a"]["sae"]["kind"] == "pca"
    assert configuration(weights="saes/{layer}", place="unchecked")["datasets"]["a"]["sae"]["place"] == "unchecked"


@pytest.mark.parametrize("weights", ["saes/{layer}", {"1": "saes/one", "default": "train"}], ids=str)
@pytest.mark.parametrize("kind", CONTROLS)
def test_a_kind_is_made_and_not_loaded(kind, weights):
    with pytest.raises(
        FggError, match=rf"a\.sae\.kind: '{kind}' is made here, but sae\.weights names existing SAEs; take"
    ):
        configuration(kind=kind, weights=weights)


@pytest.mark.parametrize(("key", "value"), [("kind", "random"), ("place", "elsewhere")])
def test_unknown_kinds_and_places(key, value):
    with pytest.raises(FggError, match=rf"datasets\.a\.sae\.{key}: '{value}' is not allowed"):
        configuration(**{key: value})


def test_the_job_gets_kind_and_place():
    config = configuration(kind="identity")
    own = {**config["datasets"]["a"], "seeds": {"sae": 4}}
    study = SimpleNamespace(config=config, settings={"a": own}, sweep=lambda _: {})
    found = json.loads(Parameters(study).sae_settings(SimpleNamespace(dataset="a", layer="1")))
    assert (found["kind"], found["place"], found["weights"], found["seed"]) == ("identity", "checked", "train", 4)


def rows_of(count=600, seed=0):
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, WIDTH, generator=draw) @ torch.randn(WIDTH, WIDTH, generator=draw)
    return mixed + 3 * torch.randn(WIDTH, generator=draw)


def explained(sae, rows):
    with torch.no_grad():
        again = sae.decode(sae.encode(rows))
    return float(1 - (rows - again).square().sum() / (rows - rows.mean(0)).square().sum())


@pytest.fixture(scope="module")
def made(data, model_folder, sae_settings, tmp_path_factory):
    """Kind -> its folder and what was measured."""
    folder = tmp_path_factory.mktemp("kinds")
    return {
        kind: (
            folder / kind,
            build_sae.build(model_folder, data, LAYER, {**copy.deepcopy(sae_settings), "kind": kind}, folder / kind),
        )
        for kind in CONTROLS
    }


@pytest.mark.parametrize("kind", CONTROLS)
def test_each_is_a_sae_lens_folder_with_metrics(made, kind):
    folder, measured = made[kind]
    assert sorted(file.name for file in folder.iterdir()) == ["cfg.json", "metrics.json", "sae_weights.safetensors"]
    theirs, ours = SAE.load_from_disk(folder, device="cpu"), load_sae(folder)
    rows = rows_of()
    assert torch.equal(ours.encode(rows), theirs.encode(rows)) and ours.W_dec.shape == (FEATURES[kind], WIDTH)
    stored = json.loads((folder / "metrics.json").read_text())
    assert stored == {"layer": LAYER, **measured, "fgg": stored["fgg"]}
    assert (stored["kind"], stored["place"], stored["features"]) == (kind, "checked", FEATURES[kind])
    assert 0 <= stored["same_prediction"] <= 1


@pytest.mark.parametrize("kind", CONTROLS)
def test_each_follows_from_the_seed(made, data, model_folder, sae_settings, tmp_path, kind):
    torch.manual_seed(123)
    build_sae.build(model_folder, data, LAYER, {**sae_settings, "kind": kind}, tmp_path)
    for file in tmp_path.iterdir():
        assert (
            hashlib.sha256(file.read_bytes()).digest()
            == hashlib.sha256((made[kind][0] / file.name).read_bytes()).digest()
        )


@pytest.mark.parametrize("options", [{}, {"shuffle_decoder": True}, {"construction": "activation_only"},
                                     {"construction": "gradient_only"}], ids=str)  # fmt: skip
@pytest.mark.parametrize("kind", CONTROLS)
def test_every_gate_runs_on_each(made, model_folder, pictures, kind, options):
    model, _, _ = model_files.load(model_folder, CPU)
    images = pictures("val")[0][:3]
    sae = load_sae(made[kind][0])
    assert check_sae(sae, model, LAYER) == "checked"
    found = fgg.attribute(model, images, gate=fgg.Gate((LAYER,), **options), saes={LAYER: sae})
    gate = found.gates[LAYER]
    assert found.relevance.isfinite().all() and gate.isfinite().all()
    if kind in ("pca", "identity") and options.get("construction") == "gradient_only":
        assert torch.allclose(gate, torch.ones_like(gate)), "the gradients of a pair of features cancel"
    else:
        assert gate.std() > 0


def test_the_combined_gate_of_the_identity_is_the_gate_without_sae(made, model_folder, pictures):
    model, _, _ = model_files.load(model_folder, CPU)
    images, saes = pictures("val")[0][:3], {LAYER: load_sae(made["identity"][0])}
    found, without = (
        fgg.attribute(model, images, gate=fgg.Gate((LAYER,), construction), saes=saes)
        for construction in ("combined", "no_sae")
    )
    assert torch.allclose(found.gates[LAYER], without.gates[LAYER], rtol=1e-3)


def test_the_bases_change_no_prediction(made):
    for kind in ("pca", "identity"):
        measured = made[kind][1]
        assert measured["explained_variance"] == pytest.approx(1, abs=1e-6) and measured["same_prediction"] == 1
        assert measured["kl"] < 1e-6
        assert measured["l0"] == pytest.approx(WIDTH, abs=0.01), "one feature of each pair is active"


@pytest.mark.parametrize("count", [600, 10])
def test_pca_reconstructs_any_row(count):
    rows = rows_of(count)
    sae, other = bases.pca(rows), rows_of(50, seed=5)
    for given in (rows, other):
        assert torch.allclose(sae.decode(sae.encode(given)), given, atol=1e-4)
    assert torch.allclose(sae.b_dec, rows.mean(0), atol=1e-5)


def test_pca_has_the_principal_directions_in_order():
    rows = rows_of()
    codes = bases.pca(rows).encode(rows)
    scores = (codes[:, 0::2] - codes[:, 1::2]).double()
    assert not (codes[:, 0::2] * codes[:, 1::2]).any(), "a component has one sign"
    variances = scores.square().mean(0)
    expected = torch.linalg.svdvals(rows.double() - rows.double().mean(0)).square() / len(rows)
    assert torch.allclose(variances, expected, rtol=1e-4)
    directions = bases.pca(rows).W_dec[0::2]
    assert (directions.max(1).values >= -directions.min(1).values).all(), "the sign does not depend on the library"
    correlation = scores.T @ scores / len(rows)
    assert (correlation - correlation.diag().diag()).abs().max() < 1e-3 * variances.max()


def test_identity_splits_each_dimension_by_its_sign():
    rows = rows_of()
    sae = bases.identity(WIDTH)
    codes = sae.encode(rows)
    assert torch.equal(codes[:, 0::2], rows.clamp(min=0)) and torch.equal(codes[:, 1::2], (-rows).clamp(min=0))
    assert torch.equal(sae.decode(codes), rows)


def initial(rows, settings):
    """The SAE with which the training starts, drawn with sae-lens from the seed as the training does."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return start.initial(InMemory(rows), settings, 0, frozen=False)


@pytest.mark.parametrize("architecture", ["topk", "standard"])
def test_untrained_is_what_sae_lens_draws(architecture):
    rows, settings = rows_of(), {**TRAIN, "architecture": architecture, "normalize": "none"}
    drawn = initial(rows, settings)
    found = training.train(rows, settings, SEED, "untrained")
    for name, tensor in drawn.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    trained = training.train(rows, settings, SEED)
    assert not torch.equal(trained.W_enc, found.W_enc) and not torch.equal(trained.W_dec, found.W_dec)
    assert explained(trained, rows) > explained(found, rows)
    assert (found.cfg.metadata.tokens_seen, trained.cfg.metadata.tokens_seen) == (0, 156 * 128)


def test_untrained_reads_whitened_residuals_as_the_trained_one_does():
    rows = rows_of()
    drawn, found = initial(rows, TRAIN), training.train(rows, TRAIN, SEED, "untrained")
    batches = InMemory(rows).shuffled(128, SEED)
    seen = torch.cat([next(batches) for _ in range(training.NORM_BATCHES)]).double()
    values, vectors = torch.linalg.eigh(seen.T.cov())
    white = ((rows.double() - seen.mean(0)) @ (vectors / (values + 1e-3).sqrt())).float()
    assert torch.allclose(found.encode(rows), drawn.encode(white), atol=1e-3)


@pytest.mark.parametrize(
    ("architecture", "normalize"),
    [
        *(("topk", normalize) for normalize in ("none", "covariance_whitening", "expected_average_only_in")),
        *(("standard", normalize) for normalize in ("none", "covariance_whitening", "layer_norm")),
    ],
)
def test_a_frozen_decoder_stays_and_its_encoder_learns(architecture, normalize, tmp_path):
    rows = rows_of()
    settings = {**TRAIN, "architecture": architecture, "normalize": normalize, "expansion": 4, "learning_rate": 3e-3}
    decoder = start.unit_decoder(4 * WIDTH, WIDTH, SEED)
    sae = training.train(rows, settings, SEED, "frozen_decoder")
    build_sae.save_inference(sae, tmp_path)
    saved = load_sae(tmp_path)
    assert torch.equal(saved.W_dec, decoder), "also in the folder"
    assert torch.allclose(decoder.norm(dim=1), torch.ones(len(decoder)))
    cosine = torch.cosine_similarity(saved.W_enc.T, decoder)
    assert cosine.mean() < 0.99, "the encoder began at the decoder's transpose"
    beaten = training.train(rows, settings, SEED, "untrained")
    assert explained(saved, rows) > max(0.0, explained(beaten, rows)) + 0.05


@pytest.mark.parametrize("normalize", ["none", "expected_average_only_in"])
def test_moving_the_scale_of_a_frozen_decoder_keeps_its_reconstruction(normalize, monkeypatch):
    rows, settings = rows_of(), {**TRAIN, "normalize": normalize, "tokens": 4096}
    moved = training.train(rows, settings, SEED, "frozen_decoder")
    monkeypatch.setattr(training, "unit_again", lambda sae, seed: None)
    before = training.train(rows, settings, SEED, "frozen_decoder")
    assert torch.allclose(moved.decode(moved.encode(rows)), before.decode(before.encode(rows)), atol=1e-3)


def test_a_frozen_decoder_beats_no_training_and_not_learning(made, sae_folder):
    learnt = json.loads((sae_folder / "metrics.json").read_text())["explained_variance"]
    frozen, untrained = (made[kind][1]["explained_variance"] for kind in ("frozen_decoder", "untrained"))
    assert untrained < frozen < learnt


def test_directions_of_a_random_decoder_are_uniform():
    found = start.unit_decoder(20000, 8, 0)
    assert found.mean(0).abs().max() < 0.01
    assert torch.allclose(found.T @ found / len(found), torch.eye(8) / 8, atol=0.01)
    assert not torch.equal(found, start.unit_decoder(20000, 8, 1))
