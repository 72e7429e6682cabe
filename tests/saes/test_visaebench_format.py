"""ViSAEBench's SAEs: every activation, both layouts of the weights, as its own loader computes them."""

import json

import pytest
import torch
import yaml
from sae_peers import FEATURES, LAYER, WIDTH, agree, refusal, rows
from safetensors.torch import save_file

from fgg.errors import FggError
from fgg.saes import build_sae, normalisation
from fgg.saes.sae import check_sae, load_sae, read_sae

ACTIVATIONS = {"topk": {"k": 5}, "batchtopk": {"k": 5, "threshold": 0.7}, "jumprelu": {}}


def state(layout="plain", **more):
    """Random weights under plain names, or under those of overcomplete."""
    draw = torch.Generator().manual_seed(5)

    def random(*shape):
        return 0.3 * torch.randn(shape, generator=draw)

    if layout == "plain":
        made = {"encoder.weight": random(FEATURES, WIDTH), "encoder.bias": random(FEATURES),
                "decoder.weight": random(FEATURES, WIDTH), "decoder.bias": random(WIDTH)}  # fmt: skip
    else:
        made = {"encoder.final_block.0.weight": random(FEATURES, WIDTH), "encoder.final_block.0.bias": random(FEATURES),
                "dictionary._weights": random(FEATURES, WIDTH), "dictionary.multiplier": torch.tensor(0.4)}  # fmt: skip
    made |= {"jump_thresholds": random(FEATURES)} if "jump_thresholds" not in more else {}
    return {name: tensor for name, tensor in (made | more).items() if tensor is not None}


@pytest.fixture
def save(tmp_path):
    """A function: settings, state dict, names of the two files, whether the statistics are beside -> the folder."""

    def save(config, tensors=None, weights="sae.pt", settings="config.json", statistics=True):
        tensors = state() if tensors is None else tensors
        folder = tmp_path / "batchtopk_2x_k5"
        folder.mkdir(exist_ok=True)
        if weights.endswith("safetensors"):
            save_file(tensors, folder / weights)
        else:
            torch.save(tensors, folder / weights)
        (folder / settings).write_text(json.dumps(config) if settings.endswith("json") else yaml.safe_dump(config))
        if statistics:
            torch.save({"mean": torch.zeros(WIDTH), "std": 1.0}, folder / "norm_stats.pt")
        return folder

    return save


def config(activation, **more):
    found = {
        "activation": activation,
        "input_dim": WIDTH,
        "hidden_dim": FEATURES,
        **ACTIVATIONS.get(activation, {}),
        **more,
    }
    return {key: value for key, value in found.items() if value is not None}


# ---- agreement


@pytest.mark.parametrize("layout", ["plain", "library"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_agrees_with_the_loader(activation, layout, save):
    hub = pytest.importorskip("visaebench.hub")
    folder = save(config(activation), state(layout))
    theirs = hub.load_sae(str(folder), device="cpu")
    agree(load_sae(folder), theirs.encode, theirs.decode)
    agree(load_sae(folder / "sae.pt"), theirs.encode, theirs.decode)


@pytest.mark.parametrize(
    ("weights", "settings"),
    [("model.safetensors", "config.json"), ("model.pt", "config.yaml"), ("sae.pt", "config.yml")],
)
def test_the_other_files(weights, settings, save):
    hub = pytest.importorskip("visaebench.hub")
    folder = save(config("topk"), weights=weights, settings=settings)
    theirs = hub.load_sae(str(folder), device="cpu")
    agree(load_sae(folder), theirs.encode, theirs.decode)


@pytest.mark.parametrize("key", ["sae_type", "architecture"])
@pytest.mark.parametrize(
    "more", [{"decoder.bias": None}, {"_running_threshold": torch.tensor(0.5)}], ids=lambda own: next(iter(own))
)
def test_what_may_be_missing(key, more, save):
    hub = pytest.importorskip("visaebench.hub")
    threshold = None if "_running_threshold" in more else 0.7
    own = {key: "BatchTopK", **config("batchtopk", threshold=threshold, input_dim=None)}
    del own["activation"]
    folder = save(own, state(**more))
    theirs = hub.load_sae(str(folder), device="cpu")
    agree(load_sae(folder), theirs.encode, theirs.decode)


def test_a_code_that_equals_the_threshold_stays(save):
    """ViSAEBench keeps what is at least the threshold; sae-lens what is above it."""
    hub = pytest.importorskip("visaebench.hub")
    exact = {"encoder.weight": torch.zeros(FEATURES, WIDTH), "encoder.bias": torch.linspace(0, 1, FEATURES)}
    threshold = float(exact["encoder.bias"][20])
    folder = save(config("batchtopk", threshold=threshold), state(**exact))
    theirs, x = hub.load_sae(str(folder), device="cpu"), torch.zeros(1, WIDTH)
    ours = load_sae(folder).encode(x)
    assert torch.equal(ours, theirs.encode(x)) and ours[0, 20] == threshold and ours[0, 19] == 0


# ---- normalisation and place


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_statistics_that_visaebench_writes_are_folded_in(activation, save, tmp_path):
    hub, data = pytest.importorskip("visaebench.hub"), pytest.importorskip("visaebench.data")
    x = rows(300, scale=2.0) + torch.linspace(-1, 1, WIDTH)
    torch.save(x.reshape(30, 10, WIDTH), tmp_path / "shard_000.pt")
    folder = save(config(activation), statistics=False)
    mean, std = data.compute_or_load_norm_stats([tmp_path / "shard_000.pt"], cache_file=folder / "norm_stats.pt")
    theirs = hub.load_sae(str(folder), device="cpu")
    agree(load_sae(folder), lambda x: theirs.encode((x - mean) / std), lambda f: theirs.decode(f) * std + mean, x[:40])
    # And as fgg estimates them where the file is absent.
    (folder / "norm_stats.pt").unlink()
    estimated = read_sae(folder)
    assert normalisation.fold_centring(estimated, lambda: x.split(70)) == pytest.approx(std, rel=1e-4)
    agree(estimated, lambda x: theirs.encode((x - mean) / std), lambda f: theirs.decode(f) * std + mean, x[:40])
    assert normalisation.unfolded(estimated) is None


def test_without_statistics_it_is_refused_and_a_run_estimates_them(
    save, data, model_folder, sae_settings, tmp_path, capsys
):
    folder = save(config("topk"), statistics=False)
    assert "activations that its library centred and scaled (mean_and_deviation)" in refusal(folder)
    measured = build_sae.build(model_folder, data, LAYER, {**sae_settings, "weights": str(folder)}, tmp_path / "out")
    assert measured["place"] == "unknown" and measured["scaling_factor"] > 0
    assert "centred and divided by" in capsys.readouterr().out
    found = load_sae(tmp_path / "out")
    assert found.cfg.metadata.normalisation == "mean_and_deviation"
    assert not torch.allclose(found.encode(rows()), read_sae(folder).encode(rows()))


def test_an_sae_that_is_not_folded_stays_so_when_it_is_written(save, tmp_path):
    build_sae.save_inference(read_sae(save(config("topk"), statistics=False)), tmp_path / "out")
    assert "centred and scaled" in refusal(tmp_path / "out")


def test_the_place_is_checked(save, model):
    sae = load_sae(save(config("topk", layer=LAYER, hook_name="blocks.1.hook_resid_post")))
    assert check_sae(sae, model, LAYER) == "checked"
    with pytest.raises(FggError, match=r"for layer 2 was trained on blocks\.1"):
        check_sae(sae, model, 2)
    with pytest.raises(FggError, match="for layer 2 was trained on layer 1"):
        check_sae(load_sae(save(config("topk", layer=1))), model, 2)


# ---- refusals


@pytest.mark.parametrize(
    ("settings", "more", "message"),
    [
        (config("vanilla"), {}, "activation 'vanilla' is not supported; fgg reads topk, batchtopk, jumprelu"),
        (config("transcoder"), {}, "this is a transcoder or crosscoder"),
        (config("topk", is_transcoder=True), {}, "this is a transcoder or crosscoder"),
        (config("topk", k=None), {}, "k must be a whole number of at least 1, not None"),
        (config("topk", k=FEATURES + 1), {}, "k is 49, more than its 48 features"),
        (config("batchtopk", threshold=None), {}, "needs the threshold of its training"),
        (config("batchtopk", threshold="high"), {}, "threshold must be a number, not 'high'"),
        (config("jumprelu"), {"jump_thresholds": None}, "needs the thresholds of its training"),
        (config("jumprelu"), {"jump_thresholds": torch.ones(3)}, r"jump_thresholds is \(3,\), expected one number or"),
        (config("topk", input_dim=12), {}, "input_dim is 12 in the configuration, but the weights have 24"),
        (config("topk", hidden_dim=12), {}, "hidden_dim is 12 in the configuration"),
        (config("topk"), {"encoder.bias": None}, "lacks encoder.bias"),
        (config("topk"), {"strange": torch.ones(1)}, "has unknown strange"),
        (config("topk"), {"encoder.weight": torch.ones(3)}, r"encoder\.weight is \(3,\), expected two dimensions"),
        (config("topk"), {"decoder.weight": torch.ones(WIDTH, FEATURES)}, r"W_dec is \(24, 48\), expected \(48, 24\)"),
        (config("topk"), {"encoder.bias": torch.full((FEATURES,), torch.inf)}, "NaN or infinite values in b_enc"),
        (config("topk", hidden_dim=0, k=1), {"encoder.weight": torch.ones(0, WIDTH), "encoder.bias": torch.ones(0),
         "decoder.weight": torch.ones(0, WIDTH)}, "k is 1, more than its 0 features"),
        (config("batchtopk", hidden_dim=0), {"encoder.weight": torch.ones(0, WIDTH), "encoder.bias": torch.ones(0),
         "decoder.weight": torch.ones(0, WIDTH)}, "has 0 features of width 24"),
    ],
)  # fmt: skip
def test_refusals(settings, more, message, save):
    with pytest.raises(FggError, match=message) as error:
        load_sae(save(settings, state(**more)))
    assert "batchtopk_2x_k5" in str(error.value)


def test_logarithms_of_thresholds_are_not_taken_for_thresholds(save):
    tensors = state("library", jump_thresholds=None) | {"thresholds": torch.full((FEATURES,), -3.0)}
    assert "overcomplete stores the logarithms of its thresholds" in refusal(save(config("jumprelu"), tensors))


def test_weights_that_are_no_state_dict(save):
    assert "does not hold a dictionary of tensors" in refusal(save(config("topk"), [torch.ones(3)]))
    assert "is not a dense tensor" in refusal(save(config("topk"), {**state(), "encoder.bias": 3}))


@pytest.mark.parametrize("weights", ["sae.pt", "model.safetensors"])
def test_damaged_files(weights, save):
    folder = save(config("topk"), weights=weights)
    whole = (folder / weights).read_bytes()
    for end in (0, 6, len(whole) // 2, len(whole) - 1):
        (folder / weights).write_bytes(whole[:end])
        said = refusal(folder)
        assert "damaged" in said or "empty" in said
    (folder / weights).write_bytes(whole)
    (folder / "config.json").write_text("{")
    assert "config.json is not valid JSON" in refusal(folder)


def test_a_pickled_module_is_refused(save):
    folder = save(config("topk"))
    torch.save(torch.nn.Linear(2, 2), folder / "sae.pt")
    assert "its pickle asks for torch.nn.modules.linear.Linear" in refusal(folder)
