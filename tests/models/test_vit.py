"""Loading models: what fits is loaded, and what does not is named; no file runs code."""

import math
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fgg.errors import FggError
from fgg.models.vit import (
    check_images,
    check_layers,
    grid_size,
    load_model,
    num_patches,
    readout,
    reads_class_token,
)

ARCHITECTURE = "vit_tiny_patch16_224"
KWARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "mlp_ratio": 2}


def load(weights=None, classes=3, **changes):
    return load_model(ARCHITECTURE, {**KWARGS, **changes}, weights, classes)


def refusal(*arguments, **options):
    with pytest.raises(FggError) as error:
        load(*arguments, **options)
    return str(error.value)


@pytest.fixture
def state():
    torch.manual_seed(1)
    return load().state_dict()


def equal(model, state):
    own = model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], state[name]) for name in own)


def test_a_model_comes_in_eval_mode_float32_with_its_classes():
    model = load()
    assert not model.training and not any(module.training for module in model.modules())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert load(classes=None).num_classes == 1000
    assert len(model.blocks) == 2 and model.embed_dim == 24


def test_the_kwargs_are_left_as_they_were():
    kwargs = dict(KWARGS)
    load_model(ARCHITECTURE, kwargs, num_classes=3)
    assert kwargs == KWARGS


def test_an_unknown_architecture():
    with pytest.raises(FggError, match=r"model\.architecture: timm has no model 'vit_tiny_patch17_224'; see timm"):
        load_model("vit_tiny_patch17_224")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet18", "ResNet; fgg explains timm's VisionTransformers with one attention over all patches"),
        ("swin_tiny_patch4_window7_224", "no single attention matrix covers all patches"),
        ("pvt_v2_b0", "changes from stage to stage"),
        ("xcit_nano_12_p16_224", "mixes channels"),
        ("cait_xxs24_224", "class token enters only in the last blocks"),
        ("naflexvit_base_patch16_gap", "differs between images; load the weights in the vit_ architecture"),
    ],
)
def test_a_model_of_another_kind(name, reason):
    with pytest.raises(FggError, match=rf"model\.architecture: '{name}' is a .*{reason}"):
        load_model(name)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"emded_dim": 8}, "emded_dim"),
        ({"embed_dim": 25}, "divisible"),
        ({"img_size": "32"}, "'img_size': '32'"),
        ({"depth": "2"}, "'depth': '2'"),
        ({"global_pool": "nope"}, "pooling"),
    ],
)
def test_bad_kwargs(changes, part):
    message = refusal(**changes)
    assert message.startswith(f"model.kwargs: timm cannot build '{ARCHITECTURE}' with") and part in message


@pytest.mark.parametrize(
    "changes", [{"patch_size": 0}, {"num_heads": 0}, {"embed_dim": -8}, {"depth": -1}, {"act_layer": "nope"}], ids=str
)
def test_kwargs_that_timm_meets_with_other_errors(changes):
    assert refusal(**changes).startswith("model.kwargs: ")


def test_pretrained_weights_without_network(monkeypatch):
    def offline(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr("fgg.models.vit.create_model", offline)
    message = refusal("pretrained")
    assert message.startswith(
        f"model.weights: the pretrained weights of '{ARCHITECTURE}' cannot be fetched (no network)"
    )


# ---- files of weights


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt"])
def test_a_file_of_weights(tmp_path, state, name):
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    assert equal(load(tmp_path / name), state)
    assert equal(load(str(tmp_path / name)), state)


@pytest.mark.parametrize("key", ["model_state_dict", "state_dict"])
def test_a_state_dict_inside_a_checkpoint(tmp_path, state, key):
    torch.save({"epoch": 3, key: state}, tmp_path / "w.pth")
    assert equal(load(tmp_path / "w.pth"), state)


def test_half_precision_is_read_as_float32(tmp_path, state):
    torch.save({name: tensor.half() for name, tensor in state.items()}, tmp_path / "w.pt")
    model = load(tmp_path / "w.pt")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.head.weight, state["head.weight"].half().float())


def test_a_missing_file(tmp_path):
    message = refusal(tmp_path / "none.pth")
    assert "none.pth does not exist" in message and "'train', 'pretrained'" in message


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_file(tmp_path, state, name, damage):
    path = tmp_path / name
    (save_file if name.endswith("safetensors") else torch.save)(state, path)
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"hello there, not weights\n"}[damage])
    assert f"{path} cannot be read safely as weights: " in refusal(path)


class Danger:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_pickle_that_would_run_code_does_not(tmp_path, state, form):
    trap, path = tmp_path / "trap", tmp_path / "w.pth"
    if form == "torch":
        torch.save({**state, "x": Danger(trap)}, path)
    else:
        path.write_bytes(pickle.dumps({**state, "x": Danger(trap)}))
    assert "cannot be read safely as weights" in refusal(path)
    assert not trap.exists()
    with path.open("rb") as file:
        if form == "pickle":
            pickle.load(file)
            assert trap.exists(), "the trap must be able to go off"


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.zeros(2)], ids=["list", "number", "tensor"])
def test_a_file_that_holds_something_else(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    assert "holds no state dict of tensors" in refusal(tmp_path / "w.pth")


def test_tensors_without_names(tmp_path, state):
    torch.save({**state, 0: torch.zeros(2)}, tmp_path / "w.pth")
    assert "w.pth" in refusal(tmp_path / "w.pth")


def test_tensors_that_do_not_fit_are_named(tmp_path, state):
    del state["blocks.1.attn.qkv.weight"]
    state["module.extra"] = torch.zeros(2)
    state["pos_embed"] = state["pos_embed"][:, :5]
    torch.save(state, tmp_path / "w.pth")
    message = refusal(tmp_path / "w.pth")
    assert "missing: blocks.1.attn.qkv.weight;" in message
    assert "unexpected: module.extra;" in message
    assert "wrong shape: pos_embed is (1, 5, 24), not (1, 17, 24)." in message


def test_another_number_of_classes(tmp_path, state):
    torch.save(state, tmp_path / "w.pth")
    message = refusal(tmp_path / "w.pth", classes=5)
    assert "head.weight is (3, 24), not (5, 24)" in message and "number of classes" in message


def test_long_lists_of_names_are_cut(tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "w.pth")
    message = refusal(tmp_path / "w.pth")
    assert f"and {len(load().state_dict()) - 8} more" in message and message.count("blocks.") < 10


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_weights_are_refused(tmp_path, state, value):
    state["blocks.0.norm1.weight"][3] = value
    torch.save(state, tmp_path / "w.pth")
    assert "w.pth holds NaN or infinite values in blocks.0.norm1.weight" in refusal(tmp_path / "w.pth")


# ---- facts about models


def test_the_grid_of_patches():
    model = load(img_size=[32, 16])
    assert grid_size(model) == (4, 2) and num_patches(model) == 8


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_the_readout_is_what_the_head_reads(pool):
    """With an identity head, the logits are the readout's average of the normed tokens, up to the norm."""
    torch.manual_seed(0)
    model = load(global_pool=pool)
    assert reads_class_token(model) == (pool == "token")
    images = torch.randn(2, 3, 32, 32)
    tokens = model.forward_features(images)
    row = readout(model, tokens)
    assert row.shape == (2, 17) and torch.allclose(row.sum(1), torch.ones(2))
    model.fc_norm, model.head = nn.Identity(), nn.Identity()
    assert torch.allclose(model.forward_head(tokens), torch.einsum("bt,btd->bd", row, tokens), atol=1e-6)


def test_images_that_do_not_fit():
    model = load()
    check_images(model, torch.zeros(1, 3, 32, 32))
    for images, part in [
        (torch.zeros(1, 1, 32, 32), "images have 1 channels, but the model takes 3"),
        (torch.zeros(1, 3, 32, 40), r"images are \(32, 40\), but the model takes \(32, 32\)"),
        (torch.zeros(3, 32, 32), "must be a float tensor"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), r"not torch.uint8 \(1, 3, 32, 32\)"),
    ]:
        with pytest.raises(FggError, match=part):
            check_images(model, images)
    check_images(load(dynamic_img_size=True), torch.zeros(1, 3, 64, 32))


def test_layers_beyond_the_depth():
    check_layers(load(), (0, 1))
    for layer in (2, -1):
        with pytest.raises(FggError, match=f"layer {layer} is beyond the model's depth 2; layers are 0 to 1"):
            check_layers(load(), (0, layer))
