"""Checkpoints as people bring them: prefixes, wrappers, averaged weights, shards, adapters, whole numbers."""

import pytest
import torch
from brought import load, make, prefixed, refusal, same
from clip import WEIGHTS, write_clip
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel

from fgg.errors import FggError
from fgg.models.checkpoints import read


@pytest.fixture(scope="module")
def state():
    return make().state_dict()


@pytest.fixture(scope="module")
def averaged():
    return make(2).state_dict()


# ---- prefixes


@pytest.mark.parametrize("form", ["torch", "under state_dict", "safetensors"])
@pytest.mark.parametrize(
    "prefix",
    ["model.", "backbone.", "timm_model.", "_orig_mod.module.", "net.model.", "model.backbone.", "0.", "encoder.vit."],
)
def test_one_prefix(tmp_path, state, prefix, form, capsys):
    path = tmp_path / "w"
    own = prefixed(prefix, state)
    if form == "safetensors":
        save_file(own, path)
    else:
        torch.save({"state_dict": own, "epoch": 3} if "under" in form else own, path)
    assert same(path, state)
    if prefix != "_orig_mod.module.":
        assert f"note: model.weights: {path}: dropped the prefix '{prefix}'" in capsys.readouterr().err


@pytest.mark.parametrize("other", ["criterion.weight", "train_acc.tp", "loss_fn.pos_weight", "teacher.fc1.weight"])
def test_what_lies_outside_the_prefix_is_named_and_left_out(tmp_path, state, other, capsys):
    torch.save({"state_dict": prefixed("model.", state) | {other: torch.ones(3)}}, tmp_path / "w.ckpt")
    assert same(tmp_path / "w.ckpt", state)
    assert f"left out what lies outside the model: {other}" in capsys.readouterr().err


@pytest.mark.parametrize("prefix", ["", "model.", "module."])
def test_what_lies_inside_the_prefix_is_refused(tmp_path, state, prefix):
    torch.save(prefixed(prefix, state | {"criterion.weight": torch.ones(3)}), tmp_path / "w.ckpt")
    assert "unexpected: criterion.weight" in refusal(tmp_path / "w.ckpt")


@pytest.mark.parametrize("prefix", ["model.", "module.", ""])
def test_a_missing_weight_is_not_found_elsewhere(tmp_path, state, prefix):
    own = prefixed(prefix, {name: tensor for name, tensor in state.items() if name != "norm.weight"})
    torch.save(own | {"other.norm.weight": torch.ones(24)}, tmp_path / "w.ckpt")
    assert "missing: norm.weight" in refusal(tmp_path / "w.ckpt")


@pytest.mark.parametrize("outer", ["head", "classifier", "fc", "linear"])
def test_a_head_beside_its_backbone(tmp_path, state, outer, capsys):
    own = {f"backbone.{name}": tensor for name, tensor in state.items() if not name.startswith("head.")}
    own |= {f"{outer}.weight": state["head.weight"], f"{outer}.bias": state["head.bias"]}
    torch.save(prefixed("model.", own), tmp_path / "w.ckpt")
    assert same(tmp_path / "w.ckpt", state)
    assert f"read model.{outer} as the head" in capsys.readouterr().err


def test_two_heads(tmp_path, state):
    own = prefixed("backbone.", state) | {"classifier.weight": state["head.weight"] + 1}
    torch.save(own, tmp_path / "w.ckpt")
    assert "holds two heads, backbone.head and classifier" in refusal(tmp_path / "w.ckpt")


@pytest.mark.parametrize("name", ["fc", "classifier", "heads.head", "head.fc", "head.1", "heads", "lin_head"])
def test_a_head_of_another_name(tmp_path, state, name):
    own = {key.replace("head.", f"{name}."): tensor for key, tensor in state.items()}
    torch.save(own, tmp_path / "w.pth")
    assert same(tmp_path / "w.pth", state)


def test_two_layers_that_may_be_the_head(tmp_path, state):
    own = {key.replace("head.", "fc."): tensor for key, tensor in state.items()}
    torch.save(own | {"classifier.weight": own["fc.weight"]}, tmp_path / "w.pth")
    assert "missing: head.weight" in refusal(tmp_path / "w.pth")


@pytest.mark.parametrize("prefix", ["", "visual.", "model.visual.", "module.clip.visual."])
def test_open_clips_tower_with_any_prefix(tmp_path, prefix):
    clip = write_clip(tmp_path / "clip").state_dict()
    own = {prefix + name.removeprefix("visual."): t for name, t in clip.items() if name.startswith("visual.")}
    own |= {f"{prefix.removesuffix('visual.')}text.{n}": t for n, t in clip.items() if not n.startswith("visual.")}
    if not prefix:
        own = {name: t for name, t in own.items() if not name.startswith("text.")}
    torch.save(own, tmp_path / "w.pt")
    expected = read(tmp_path / "clip" / WEIGHTS)
    found = read(tmp_path / "w.pt")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


# ---- wrappers


@pytest.mark.parametrize(
    "wrap",
    [
        "blocks.{}._checkpoint_wrapped_module.",
        "blocks.{}._orig_mod.",
        "blocks.{}._fsdp_wrapped_module._checkpoint_wrapped_module.",
        "_orig_mod.blocks.{}.",
    ],
)
def test_wrapped_parts(tmp_path, state, wrap):
    own = dict(state)
    for layer in (0, 1):
        own = {name.replace(f"blocks.{layer}.", wrap.format(layer)): tensor for name, tensor in own.items()}
    torch.save({"model": own}, tmp_path / "w.pth")
    assert same(tmp_path / "w.pth", state)


@pytest.mark.parametrize("form", ["plain", "in a dict"])
def test_an_averaged_model(tmp_path, state, form, capsys):
    model = make()
    own = AveragedModel(model).state_dict()
    assert "n_averaged" in own
    torch.save(own if form == "plain" else {"model": own, "epoch": 1}, tmp_path / "w.pth")
    assert same(tmp_path / "w.pth", state)
    assert "n_averaged" in capsys.readouterr().err


# ---- plain and averaged


@pytest.mark.parametrize(
    "content",
    [
        lambda own: {"model_ema": own, "epoch": 3},
        lambda own: {"ema": {"module": own, "decay": 0.9}},
        lambda own: {"ema": prefixed("module.", own)},
        lambda own: {"callbacks": {"EMA": {"ema_weights": own}}, "epoch": 2},
        lambda own: {"state_dict_ema": prefixed("model.", own)},
        lambda own: {"net": own},
        lambda own: {"module": own, "optimizer": {"exp_avg": own}},
        lambda own: {**own, "epoch": 3, "note": "best"},
    ],
)
def test_the_only_weights_are_read(tmp_path, averaged, content, capsys):
    torch.save(content(averaged), tmp_path / "w.pth")
    assert same(tmp_path / "w.pth", averaged)
    assert "note: model.weights" in capsys.readouterr().err


BOTH = {
    "keys": (lambda a, b: {"model": a, "model_ema": b}, "model_ema"),
    "timm": (lambda a, b: {"state_dict": a, "state_dict_ema": b}, "state_dict_ema"),
    "nested": (lambda a, b: {"model": a, "ema": {"module": b}}, "ema.module"),
    "nested, its first key": (lambda a, b: {"model": a, "ema": {"module": b}}, "ema"),
    "other keys": (lambda a, b: {"net": a, "net_ema": b}, "net_ema"),
    "prefixes": (lambda a, b: prefixed("model.", a) | prefixed("ema_model.", b), "ema_model"),
    "lightning": (lambda a, b: {"state_dict": prefixed("model.", a) | prefixed("ema_model.module.", b)}, "ema_model"),
    "key and prefix": (
        lambda a, b: {"state_dict": prefixed("model.", a) | prefixed("ema.", b), "epoch": 1},
        "state_dict.ema",
    ),
}


@pytest.mark.parametrize("form", BOTH)
def test_plain_weights_unless_the_key_says_otherwise(tmp_path, state, averaged, form, capsys):
    content, key = BOTH[form]
    torch.save(content(state, averaged), tmp_path / "w.pth")
    assert same(tmp_path / "w.pth", state)
    assert "model.weights_key" in capsys.readouterr().err, "that there are averaged weights is told"
    assert same(tmp_path / "w.pth", averaged, key)
    assert "as model.weights_key says" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["ema", "nothing", "model.ema"])
def test_a_key_that_is_not_there(tmp_path, state, key):
    torch.save({"model": state}, tmp_path / "w.pth")
    assert f"model.weights_key {key!r}" in refusal(tmp_path / "w.pth", key) or "weights_key" in refusal(
        tmp_path / "w.pth", key
    )


@pytest.mark.parametrize("key", ["", 3, ["model"]])
def test_a_key_that_is_none(tmp_path, state, key):
    torch.save({"model": state}, tmp_path / "w.pth")
    with pytest.raises(FggError, match=r"model\.weights_key: .* must be the key or prefix of weights"):
        load(tmp_path / "w.pth", key)


@pytest.mark.parametrize("key", ["base_encoder", "module.base_encoder"])
def test_a_prefix_on_several_gpus(tmp_path, state, averaged, key):
    both = prefixed("module.base_encoder.", state) | prefixed("module.momentum_encoder.", averaged)
    torch.save({"state_dict": both}, tmp_path / "w.pth")
    assert same(tmp_path / "w.pth", state, key)


def test_a_model_that_standardises_its_images(tmp_path, state, capsys):
    torch.save(prefixed("1.", state) | {"0.mean": torch.zeros(3), "0.std": torch.ones(3)}, tmp_path / "w.pth")
    assert same(tmp_path / "w.pth", state)
    assert "0.mean, 0.std" in (told := capsys.readouterr().err) and "set preprocess.mean and std" in told


@pytest.mark.parametrize("form", ["keys", "prefixes"])
def test_two_models_of_which_none_is_the_average(tmp_path, state, averaged, form):
    both = {"student": state, "teacher": averaged}
    torch.save(
        both if form == "keys" else prefixed("student.", state) | prefixed("teacher.", averaged), tmp_path / "w.pth"
    )
    message = refusal(tmp_path / "w.pth")
    assert "student, teacher" in message and "choose one with model.weights_key" in message
    assert same(tmp_path / "w.pth", averaged, "teacher")
