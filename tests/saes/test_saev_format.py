"""saev's checkpoints: every version of the header, as saev's own class computes it, or a slow definition where it is absent."""

import dataclasses
import io
import json

import pytest
import torch
from sae_peers import FEATURES, LAYER, WIDTH, agree, fill, refusal, rows

from fgg.errors import FggError
from fgg.saes import build_sae, normalisation
from fgg.saes.sae import check_sae, load_sae, read_sae

RAW = {"data": {"scale_mean": False, "scale_norm": False, "layer": LAYER}}


def tensors(**more):
    draw = torch.Generator().manual_seed(4)
    shapes = {"W_enc": (WIDTH, FEATURES), "W_dec": (FEATURES, WIDTH), "b_enc": (FEATURES,), "b_dec": (WIDTH,)}
    made = {name: 0.3 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    return {name: tensor for name, tensor in (made | more).items() if tensor is not None}


def slow(name, subtract, k=None, threshold=0.0):
    """Codes one token and one feature at a time."""
    w = tensors()

    def encode(x):
        found = torch.zeros(len(x), FEATURES)
        for i, row in enumerate(x):
            own = row - w["b_dec"] if subtract else row
            pre = [float(own @ w["W_enc"][:, j] + w["b_enc"][j]) for j in range(FEATURES)]
            kept = sorted(range(FEATURES), key=lambda j: -pre[j])[:k]
            for j in kept:
                if pre[j] > (threshold if name == "jump" else 0):
                    found[i, j] = pre[j]
        return found

    return encode, lambda f: f @ w["W_dec"] + w["b_dec"]


@pytest.fixture
def write(tmp_path):
    """A function: header, state dict, settings of the training -> sae.pt."""

    def write(header, state=None, training=None, name="sae.pt"):
        file = tmp_path / name
        body = io.BytesIO()
        torch.save(tensors() if state is None else state, body)
        file.write_bytes(json.dumps(header).encode() + b"\n" + body.getvalue())
        if training is not None:
            (tmp_path / "config.json").write_text(json.dumps(training))
        return file

    return write


@pytest.fixture
def peer(tmp_path):
    """Saev's own SAE with random weights, and the file that saev writes of it."""
    nn, config = pytest.importorskip("saev.nn"), pytest.importorskip("saev.config")
    sae = fill(nn.SparseAutoencoder(config.SparseAutoencoder(d_vit=WIDTH, exp_factor=FEATURES // WIDTH)))
    nn.dump(str(tmp_path / "sae.pt"), sae)
    return sae, tmp_path / "sae.pt"


def schema(number, activation, **more):
    sizes = {"d_model": WIDTH, "d_sae": FEATURES} if number > 2 else {"d_vit": WIDTH, "exp_factor": FEATURES // WIDTH}
    return {"schema": number, "cfg": {**sizes, "activation": {"cls": activation, "params": more}}, "lib": "0.1.0"}


# ---- agreement


def test_release_0_1_0_agrees_with_saev(peer):
    sae, file = peer
    ours = read_sae(file)
    agree(ours, lambda x: sae(x)[1], sae.decode)
    assert torch.equal(read_sae(file.parent).encode(rows()), ours.encode(rows())), "the folder"
    assert normalisation.unfolded(ours) == "mean_and_norm"


def test_release_0_1_0_with_the_mean_and_the_norm_of_its_loader(peer):
    sae, file = peer
    x = rows(scale=3.0) + 1
    mean, scalar = x.mean(0), (x - x.mean(0)).norm(dim=1).mean() / WIDTH**0.5
    torch.save({"mean": mean, "std": float(scalar)}, file.with_name("norm_stats.pt"))
    ours = load_sae(file)
    agree(ours, lambda x: sae((x - mean) / scalar)[1], lambda f: sae.decode(f) * scalar + mean, x)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"d_vit": WIDTH, "exp_factor": 2, "ghost_grads": False, "sparsity_coeff": 4e-4}, ("relu", True)),
        ({"schema": 1, "cls": "Relu", "cfg": {"d_vit": WIDTH, "exp_factor": 2}}, ("relu", False)),
        ({"schema": 1, "cls": "TopK", "cfg": {"d_vit": WIDTH, "exp_factor": 2, "top_k": 5}}, ("topk", False, 5)),
        (schema(1, "TopK", top_k=5) | {"cls": "SparseAutoencoderConfig"}, ("topk", False, 5)),
        (schema(2, "Relu"), ("relu", False)),
        (schema(2, "TopK", top_k=7), ("topk", False, 7)),
        (schema(2, "BatchTopK", top_k=7), ("topk", False, 7)),
        (schema(3, "TopK", top_k=7, sparsity={}), ("topk", False, 7)),
        (schema(4, "Relu", sparsity={"coeff": 1e-4}), ("relu", False)),
        (schema(5, "TopK", top_k=3, key="top-k"), ("topk", False, 3)),
    ],
    ids=lambda value: json.dumps(value)[:90] if isinstance(value, dict) else None,
)
def test_every_header(header, expected, write):
    agree(load_sae(write(header, training=RAW)), *slow(*expected), rows(12))


@pytest.mark.parametrize("number", [4, 5])
def test_batch_top_k_uses_the_running_threshold(number, write):
    state = tensors() | {"activation.threshold": torch.tensor(0.8)}
    ours = load_sae(write(schema(number, "BatchTopK", top_k=9, momentum=0.1), state))
    agree(ours, *slow("jump", False, threshold=0.8), rows(12))
    assert ours.cfg.architecture() == "jumprelu"


def test_negative_values_among_the_k_largest_become_0(write):
    sae = load_sae(write(schema(5, "TopK", top_k=FEATURES)))
    w = tensors()
    assert torch.allclose(sae.encode(rows()), (rows() @ w["W_enc"] + w["b_enc"]).clamp(min=0), atol=1e-5)


# ---- place and normalisation


def test_the_place_of_the_training_is_checked(write, model):
    sae = load_sae(write(schema(5, "Relu"), training={"train_data": {"layer": LAYER, "scale_norm": False}}))
    assert sae.cfg.metadata.hook_name == f"blocks.{LAYER}" and check_sae(sae, model, LAYER) == "checked"
    with pytest.raises(FggError, match=r"for layer 2 was trained on blocks\.1"):
        check_sae(sae, model, 2)
    last = load_sae(write(schema(5, "Relu"), training={"data": {"layer": -3, "scale_norm": False}}))
    assert check_sae(last, model, LAYER) == "checked", "the third block from the end of four"
    assert check_sae(load_sae(write(schema(5, "Relu"), training={})), model, LAYER) == "unknown"


@pytest.mark.parametrize(
    ("number", "data", "kind"),
    [
        (None, None, "mean_and_norm"),
        (1, None, "mean_and_norm"),
        (1, {"scale_mean": True, "scale_norm": False}, "mean"),
        (1, {"scale_mean": False, "scale_norm": True}, "expected_average_only_in"),
        (2, {"scale_mean": "file.pt", "scale_norm": "file.pt"}, "mean_and_norm"),
        (2, None, None),
        (5, {"scale_norm": False}, None),
    ],
)
def test_what_the_training_did_to_the_activations(number, data, kind, write):
    header = {"d_vit": WIDTH, "exp_factor": 2} if number is None else schema(number, "Relu")
    file = write(header, training=None if data is None else {"data": data})
    assert normalisation.unfolded(read_sae(file)) == kind
    if kind in normalisation.CENTRINGS:
        assert "centred and scaled" in refusal(file) and "estimated on the training images" in refusal(file)


@pytest.mark.parametrize("flags", [(True, True), (True, False)])
def test_the_workflow_estimates_mean_and_norm(flags, write, data, model_folder, sae_settings, tmp_path, capsys):
    from fgg.models import model_files

    mean_flag, norm_flag = flags
    training = {"data": {"scale_mean": mean_flag, "scale_norm": norm_flag, "layer": LAYER}}
    file = write({"d_vit": WIDTH, "exp_factor": 2}, training=training)
    measured = build_sae.build(model_folder, data, LAYER, {**sae_settings, "weights": str(file)}, tmp_path / "out")
    model, preprocess, _ = model_files.load(model_folder, torch.device("cpu"))
    seen = []
    hook = model.blocks[LAYER].register_forward_hook(lambda block, given, output: seen.append(output[:, 1:].detach()))
    from fgg.data.load import load_split

    for image in load_split(data / "train.parquet").tensors(preprocess):
        model(image[None])
    hook.remove()
    x = torch.cat([part.flatten(0, 1) for part in seen])
    mean = x.mean(0)
    scalar = (x - mean).norm(dim=1).mean() / WIDTH**0.5 if norm_flag else torch.tensor(1.0)
    assert measured["scaling_factor"] == pytest.approx(1 / float(scalar), rel=1e-4)
    assert "centred and divided by" in capsys.readouterr().out
    ours, (encode, decode) = load_sae(tmp_path / "out"), slow("relu", True)
    some = x[:20]
    expected = encode((some - mean) / scalar)
    assert torch.allclose(ours.encode(some), expected, atol=1e-3)
    assert torch.allclose(ours.decode(expected), decode(expected) * scalar + mean, atol=1e-3)
    found = json.loads((tmp_path / "out" / "cfg.json").read_text())["metadata"]
    assert found["normalisation"] == ("mean_and_norm" if norm_flag else "mean") and "unfolded" not in found


def test_it_goes_through_a_run(write, data, model_folder, sae_settings, tmp_path):
    file = write(schema(5, "TopK", top_k=4), training={"data": {"layer": LAYER, "scale_norm": False}})
    measured = build_sae.build(model_folder, data, LAYER, {**sae_settings, "weights": str(file)}, tmp_path / "out")
    assert measured["place"] == "checked" and measured["features"] == FEATURES
    assert torch.equal(load_sae(tmp_path / "out").encode(rows()), load_sae(file).encode(rows()))


# ---- refusals


@pytest.mark.parametrize(
    ("header", "state", "message"),
    [
        ({"schema": 9, "cfg": {}}, {}, "its schema 9 is unknown; fgg reads 1, 2, 3, 4, 5"),
        ({"schema": 2}, {}, r"has no settings \(cfg\)"),
        ({"schema": 2, "cfg": {}}, {}, "name no activation"),
        (schema(4, "AbsBatchTopK", top_k=3), {}, "activation 'AbsBatchTopK' is not supported"),
        ({"schema": 1, "cls": "JumpRelu", "cfg": {}}, {}, "activation 'JumpRelu' is not supported"),
        ({"schema": 1, "cls": "BatchTopK", "cfg": {"top_k": 3}}, {}, "codes that depend on the whole batch"),
        (schema(3, "BatchTopK", top_k=3), {}, "codes that depend on the whole batch"),
        (schema(5, "BatchTopK", top_k=3), {"activation.threshold": torch.tensor(0.0)}, "threshold was never set"),
        (schema(5, "BatchTopK", top_k=3), {"activation.threshold": torch.ones(3)}, r"threshold is \(3,\), expected one"),
        (schema(2, "TopK", top_k=FEATURES + 1), {}, "top_k is 49, more than its 48 features"),
        (schema(2, "TopK", top_k=0), {}, "top_k must be a whole number of at least 1, not 0"),
        (schema(2, "TopK"), {}, "top_k must be a whole number of at least 1, not None"),
        (schema(2, "Transcoder"), {}, "is not supported"),
        ({"schema": 2, "cls": "Transcoder", "cfg": {}}, {}, "this is a transcoder or crosscoder"),
        (schema(2, "Relu"), {"W_enc": torch.ones(3)}, r"W_enc is \(3,\), expected two dimensions"),
        (schema(2, "Relu"), {"b_enc": torch.ones(3)}, r"b_enc is \(3,\), expected \(48,\)"),
        (schema(2, "Relu"), {"b_dec": None}, "lacks b_dec"),
        (schema(2, "Relu"), {"more": torch.ones(3)}, "has unknown more"),
        (schema(5, "Relu") | {"cfg": {**schema(5, "Relu")["cfg"], "d_sae": 7}}, {}, "d_sae is 7 in the configuration"),
        (schema(2, "Relu") | {"cfg": {**schema(2, "Relu")["cfg"], "exp_factor": 4}}, {}, "exp_factor is 4"),
        (schema(2, "Relu"), {"W_enc": torch.full((WIDTH, FEATURES), torch.nan)}, "holds NaN or infinite values in W_enc"),
        (
            schema(5, "Relu") | {"cfg": {"activation": {"cls": "Relu"}}},
            {"W_enc": torch.ones(WIDTH, 0), "W_dec": torch.ones(0, WIDTH), "b_enc": torch.ones(0)},
            "has 0 features of width 24",
        ),
    ],
)  # fmt: skip
def test_refusals(header, state, message, write):
    with pytest.raises(FggError, match=message) as error:
        load_sae(write(header, tensors(**state), RAW))
    assert "sae.pt" in str(error.value)


def test_another_kind_of_normalisation_is_refused(write):
    assert "scale_norm without scale_mean" in refusal(write(schema(5, "Relu"), training={"data": {"scale_norm": True}}))
    assert "mean over layers" in refusal(
        write(schema(5, "Relu"), training={"data": {"layer": "meanpool", "scale_norm": False}})
    )


@pytest.mark.parametrize(
    "bad", [{"mean": torch.ones(3), "std": 1.0}, {"std": 1.0}, {"mean": torch.ones(WIDTH), "std": 0.0}]
)
def test_statistics_that_do_not_fit(bad, write, tmp_path):
    torch.save(bad, tmp_path / "norm_stats.pt")
    assert "norm_stats.pt beside it" in refusal(write({"d_vit": WIDTH, "exp_factor": 2}))


def test_damaged_files(write):
    file = write(schema(2, "Relu"))
    whole = file.read_bytes()
    for end in (1, 30, whole.index(b"\n") + 1, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:end])
        said = refusal(file)
        assert "damaged" in said or "empty" in said
    file.write_bytes(b"{no json\n" + whole.partition(b"\n")[2])
    assert "its first line is not valid JSON" in refusal(file)
    file.write_bytes(whole)
    file.with_name("config.json").write_text("{")
    assert "config.json is not valid JSON" in refusal(file)


def test_a_pickle_that_names_a_function_is_refused(write):
    class Runs:
        def __reduce__(self):
            return print, ("ran",)

    assert "its pickle asks for __builtin__.print" in refusal(write(schema(2, "Relu"), {"W_enc": Runs()}))


def test_the_header_of_the_release_holds_all_its_settings(peer):
    sae, file = peer
    header = json.loads(file.read_bytes().partition(b"\n")[0])
    assert header == dataclasses.asdict(sae.cfg)
