"""The files of a checkpoint, values that are no weights, positions and registers."""

import json

import pytest
import torch
from brought import load, make, prefixed, refusal, same
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

from fgg.errors import FggError
from fgg.models.checkpoints import read


@pytest.fixture(scope="module")
def state():
    return make().state_dict()


# ---- shards


def shards(folder, state, kind="safetensors", stem="model", index=True):
    names = sorted(state)
    parts = [names[::2], names[1::2]]
    files = [f"{stem}-0000{number}-of-00002.{kind}" for number in (1, 2)]
    for file, own in zip(files, parts, strict=True):
        write = save_file if kind == "safetensors" else torch.save
        write({name: state[name] for name in own}, folder / file)
    placed = {name: file for file, own in zip(files, parts, strict=True) for name in own}
    if index:
        (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return placed


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("given", ["", "*.{kind}", "*", "model.{kind}.index.json", "model-00002-of-00002.{kind}"])
@pytest.mark.parametrize("index", [True, False])
def test_a_sharded_checkpoint(tmp_path, state, kind, given, index, capsys):
    shards(tmp_path, prefixed("model.", state), kind, index=index)
    if "index" in given and not index:
        pytest.skip("there is no index")
    assert same(tmp_path / given.format(kind=kind), state)
    assert "read 2 files as one checkpoint" in capsys.readouterr().err


def test_a_missing_shard(tmp_path, state):
    shards(tmp_path, state)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    for given in ("", "model.safetensors.index.json", "model-00001-of-00002.safetensors"):
        with pytest.raises(FggError, match=r"model-00002-of-00002.safetensors is missing"):
            load(tmp_path / given)


def test_an_index_that_lies(tmp_path, state):
    placed = shards(tmp_path, state)
    index = tmp_path / "model.safetensors.index.json"
    for content, message in [
        ({"weight_map": placed | {"x": "../../etc/passwd"}}, "names files outside its folder"),
        ({"weight_map": placed | {"extra": "model-00001-of-00002.safetensors"}}, "lacks extra, which the index places"),
        ({"weight_map": {}}, "has no weight_map"),
        ([1], "not an object in braces"),
    ]:
        index.write_text(json.dumps(content))
        assert message in refusal(index)
    index.write_text("[" * 100000)
    assert "cannot be read" in refusal(index)


def test_a_tensor_in_two_shards(tmp_path, state):
    shards(tmp_path, state, index=False)
    save_file(dict(state), tmp_path / "model-00002-of-00002.safetensors")
    assert "in two of its files" in refusal(tmp_path / "model-00001-of-00002.safetensors")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.pth": 1, "b.pth": 1}, "holds several files of weights (a.pth, b.pth)"),
        ({"notes.txt": 1}, "holds none"),
        ({"__0_0.distcp": 1}, "is a distributed checkpoint; convert it"),
        ({"adapter_model.safetensors": 1}, "adapters that are not merged"),
    ],
)
def test_folders_that_do_not_serve(tmp_path, files, message):
    for name in files:
        (tmp_path / name).write_bytes(b"x")
    assert message in refusal(tmp_path)


def test_the_only_file_of_a_folder(tmp_path, state):
    torch.save(state, tmp_path / "best.pth")
    (tmp_path / "log.txt").write_text("x")
    assert same(tmp_path, state)


def test_the_home_folder(tmp_path, state, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(state, tmp_path / "w.pth")
    assert same("~/w.pth", state) and same("~/*.pth", state)
    assert read("~/w.pth").keys() == state.keys()


# ---- what are no weights


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.bool, torch.float8_e4m3fn])
@pytest.mark.parametrize("name", ["blocks.0.attn.qkv.weight", "head.bias", "pos_embed"])
def test_numbers_of_another_kind(tmp_path, state, dtype, name):
    torch.save({**state, name: state[name].to(dtype)}, tmp_path / "w.pth")
    message = refusal(tmp_path / "w.pth")
    assert name in message and "in place of weights" in message and "save the model as float32" in message


def test_torchs_own_quantisation(tmp_path, state):
    small = torch.quantize_per_tensor(state["head.weight"], 0.1, 0, torch.qint8)
    torch.save({**state, "head.weight": small}, tmp_path / "w.pth")
    assert "head.weight" in refusal(tmp_path / "w.pth")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_are_read(tmp_path, state, dtype):
    torch.save({name: tensor.to(dtype) for name, tensor in state.items()}, tmp_path / "w.pth")
    assert same(tmp_path / "w.pth", {name: tensor.to(dtype).float() for name, tensor in state.items()})


def test_a_value_beyond_float32(tmp_path, state):
    torch.save({**state, "head.bias": torch.tensor([1e300, 0, 0], dtype=torch.float64)}, tmp_path / "w.pth")
    assert "holds NaN or infinite values in head.bias" in refusal(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "names",
    [
        ("base_model.model.blocks.0.attn.qkv.base_layer.weight", "base_model.model.blocks.0.attn.qkv.lora_A.default.weight"),
        ("blocks.0.attn.qkv.lora_A", "blocks.0.attn.qkv.lora_B"),
        ("blocks.1.mlp.fc1.lora_magnitude_vector.weight",),
        ("base_model.model.blocks.0.attn.qkv.hada_w1_a",),
    ],
)  # fmt: skip
@pytest.mark.parametrize("alone", [True, False])
def test_adapters(tmp_path, state, names, alone):
    torch.save(({} if alone else state) | {name: torch.zeros(2, 2) for name in names}, tmp_path / "w.pth")
    message = refusal(tmp_path / "w.pth")
    assert "adapters that are not merged" in message and "merge_and_unload" in message


@pytest.mark.parametrize("which", ["one", "all"])
def test_tensors_without_values(tmp_path, state, which):
    own = {
        name: tensor.to("meta") if which == "all" or name == "norm.bias" else tensor for name, tensor in state.items()
    }
    torch.save(own, tmp_path / "w.pth")
    assert "on the device meta" in refusal(tmp_path / "w.pth")


def test_a_distilled_model(tmp_path, state):
    extra = {"head_dist.weight": state["head.weight"], "head_dist.bias": state["head.bias"]}
    extra["dist_token"] = torch.zeros(1, 1, 24)
    torch.save(state | extra, tmp_path / "w.pth")
    assert "the mean of two heads: choose a distilled architecture" in refusal(tmp_path / "w.pth")


# ---- positions and registers


@pytest.mark.parametrize("changes", [{}, {"global_pool": "avg", "class_token": False}, {"reg_tokens": 2}])
@pytest.mark.parametrize("size", [48, [32, 48]])
def test_another_grid_is_resampled_as_timm_does(tmp_path, changes, size, capsys):
    own = make(**changes)
    torch.save(own.state_dict(), tmp_path / "w.pth")
    model = load(tmp_path / "w.pth", **changes, img_size=size)
    expected = resample_abs_pos_embed(
        own.pos_embed, list(model.patch_embed.grid_size), [4, 4], num_prefix_tokens=own.num_prefix_tokens
    )
    assert torch.equal(model.pos_embed, expected) and torch.equal(model.head.weight, own.head.weight)
    assert "position embeddings were resampled from a grid of 4 x 4" in capsys.readouterr().err


def test_a_grid_that_is_not_square(tmp_path):
    torch.save(make(img_size=[16, 40]).state_dict(), tmp_path / "w.pth")
    assert "resampled only between square grids" in refusal(tmp_path / "w.pth")


@pytest.mark.parametrize("embedded", [True, False])
@pytest.mark.parametrize("size", [32, 48])
def test_registers_without_positions(tmp_path, embedded, size):
    """As in Meta's DINOv2: the class token has a position, the registers have none."""
    own = make(reg_tokens=4, no_embed_class=True)
    positions = torch.randn(1, 17, 24)
    plain = own.state_dict() | {"pos_embed": positions}
    plain["register_tokens"] = plain.pop("reg_token")
    torch.save(plain | {"mask_token": torch.zeros(1, 24)}, tmp_path / "w.pth")
    model = load(tmp_path / "w.pth", reg_tokens=4, no_embed_class=embedded, img_size=size)
    patches = torch.randn(2, model.patch_embed.num_patches, 24)
    rest = positions if size == 32 else resample_abs_pos_embed(positions, [6, 6], [4, 4], num_prefix_tokens=1)
    expected = torch.cat(
        [(own.cls_token + rest[:, :1]).expand(2, -1, -1), own.reg_token.expand(2, -1, -1), patches + rest[:, 1:]], dim=1
    )
    assert torch.allclose(model._pos_embed(patches), expected, atol=1e-6)
