"""Checkpoints in every form that training scripts leave behind; none of them runs anything."""

import argparse
import gzip
import io
import os
import pickle
import struct
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fgg.errors import FggError
from fgg.models import checkpoints
from fgg.models.checkpoints import read, timm_names
from fgg.models.vit import load_model

ARCHITECTURE = "vit_tiny_patch16_224"
KWARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "mlp_ratio": 2}
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(1)
    return {name: torch.randn_like(tensor) for name, tensor in load(None).state_dict().items()}


def load(weights, classes=3, **changes):
    return load_model(ARCHITECTURE, KWARGS | changes, weights, classes)


def same(found, state):
    return found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)


def refusal(path, **options):
    with pytest.raises(FggError) as error:
        load(path, **options)
    text = str(error.value)
    assert text.startswith("model.weights: ") and str(path) in text
    return text


def packed(path, members, mode="w:gz"):
    """A tar of name -> content; None makes a folder, a Path a link."""
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, Path):
                info.type, info.linkname = tarfile.SYMTYPE, str(content)
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


def saved(content, **options):
    """What torch.save would write."""
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


# ---- forms


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("form", ["plain", "model_state_dict", "state_dict", "model", "both"])
def test_where_the_state_dict_is(tmp_path, state, form, legacy):
    content = {
        "plain": state,
        "model_state_dict": {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": {"state": {}}},
        "state_dict": {"epoch": 3, "arch": "vit", "state_dict": state, "best_acc1": torch.tensor(0.9)},
        "model": {"model": state, "args": None},
        "both": {"state_dict": {"model": state}},
    }[form]
    (tmp_path / "w").write_bytes(saved(content, _use_new_zipfile_serialization=not legacy))
    assert same(read(tmp_path / "w"), state), "the name of the file does not matter"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "module.module."])
def test_prefixes_that_all_names_share(tmp_path, state, prefix):
    torch.save({"state_dict": {prefix + name: tensor for name, tensor in state.items()}}, tmp_path / "w.pth.tar")
    assert same(read(tmp_path / "w.pth.tar"), state)


def test_a_prefix_of_some_names_is_none(state):
    mixed = dict(state)
    mixed["module.cls_token"] = mixed.pop("cls_token")
    assert timm_names(mixed).keys() == mixed.keys()


@pytest.mark.parametrize("old_head", [False, True])
def test_a_lin_head_becomes_the_head(tmp_path, state, old_head):
    renamed = {name.replace("head.", "lin_head."): tensor for name, tensor in state.items()}
    if old_head:  # of pretraining, with other classes
        renamed |= {"head.weight": torch.randn(7, 24), "head.bias": torch.randn(7)}
    torch.save({"model_state_dict": renamed, "loss": 0.1}, tmp_path / "w.pth")
    assert same(dict(load(tmp_path / "w.pth").state_dict()), state)


def test_what_pretraining_leaves_is_not_read(tmp_path, state):
    left = {"decoder_pos_embed": torch.zeros(1, 17, 8), "mask_token": torch.zeros(1, 1, 8)}
    torch.save({"model": state | left}, tmp_path / "w.pth")
    assert same(read(tmp_path / "w.pth"), state)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("inner", ["torch", "legacy", "safetensors"])
def test_a_checkpoint_in_a_tar(tmp_path, state, mode, inner):
    if inner == "safetensors":
        save_file(state, tmp_path / "w")
        content = (tmp_path / "w").read_bytes()
    else:
        wrapped = {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}
        content = saved(wrapped, _use_new_zipfile_serialization=inner == "torch")
    name = "results_model/model_best." + ("safetensors" if inner == "safetensors" else "pth.tar")
    members = {
        "results_model": None,
        "results_model/._model_best.pth.tar": b"x",
        "results_model/log.txt": b"y",
        name: content,
    }
    path = packed(tmp_path / "download", members, mode)
    before = sorted(tmp_path.rglob("*"))
    assert same(read(path), state)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is unpacked"


def test_the_best_of_several_in_a_tar(tmp_path, state):
    members = {"r/checkpoint_0001.pth.tar": saved({"a": torch.zeros(1)}), "r/model_best.pth.tar": saved(state)}
    assert same(read(packed(tmp_path / "a.tar.gz", members)), state)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.txt": b"x"}, "is an archive with no checkpoint; unpack it"),
        ({}, "is an archive with no checkpoint"),
        ({"a.pth": b"1", "b/a.pth": b"2"}, r"several checkpoints (a.pth, b/a.pth)"),
        ({"a.pth": Path("/etc/passwd")}, "no checkpoint"),
        ({"a.pth": b"text"}, "holds a.pth, which cannot be read safely as weights"),
        ({"a.tar": gzip.compress(b"x")}, "holds another archive, a.tar; unpack it"),
    ],
)
def test_tars_that_do_not_serve(tmp_path, members, message):
    assert message in refusal(packed(tmp_path / "a.tar.gz", members))


def test_a_tar_that_claims_to_be_huge(tmp_path):
    info = tarfile.TarInfo("model_best.pth.tar")
    info.size = checkpoints.MOST_BYTES + 1
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(info.tobuf() + b"\0" * 4096))
    assert "more than any model has; it was refused" in refusal(tmp_path / "a.tar.gz")


def test_open_clips_tower_gets_timms_names():
    """Every name, and the three shapes that differ."""
    width, embedding = 4, 3
    found = timm_names(
        {
            "logit_scale": torch.zeros(()),
            "transformer.resblocks.0.ln_1.weight": torch.zeros(2),  # of the text tower
            "visual.class_embedding": torch.arange(4.0),
            "visual.positional_embedding": torch.arange(8.0).view(2, width),
            "visual.proj": torch.arange(12.0).view(width, embedding),
            "visual.conv1.weight": torch.zeros(width, 3, 2, 2),
            "visual.ln_pre.bias": torch.zeros(width),
            "visual.ln_post.weight": torch.zeros(width),
            "visual.transformer.resblocks.11.ln_1.weight": torch.zeros(width),
            "visual.transformer.resblocks.0.ln_2.bias": torch.zeros(width),
            "visual.transformer.resblocks.0.ls_1.gamma": torch.zeros(width),
            "visual.transformer.resblocks.0.attn.in_proj_weight": torch.zeros(3 * width, width),
            "visual.transformer.resblocks.0.attn.in_proj_bias": torch.zeros(3 * width),
            "visual.transformer.resblocks.0.attn.out_proj.weight": torch.zeros(width, width),
            "visual.transformer.resblocks.0.mlp.c_fc.weight": torch.zeros(8, width),
            "visual.transformer.resblocks.0.mlp.c_proj.bias": torch.zeros(width),
        }
    )
    assert set(found) == {
        "cls_token", "pos_embed", "head.weight", "patch_embed.proj.weight", "norm_pre.bias", "norm.weight",
        "blocks.11.norm1.weight", "blocks.0.norm2.bias", "blocks.0.ls1.gamma", "blocks.0.attn.qkv.weight",
        "blocks.0.attn.qkv.bias", "blocks.0.attn.proj.weight", "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.bias",
    }  # fmt: skip
    assert found["cls_token"].tolist() == [[[0, 1, 2, 3]]]
    assert found["pos_embed"].shape == (1, 2, width)
    assert found["head.weight"].tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


@pytest.mark.parametrize("name", ["w", "w.pth", "w.safetensors"])
def test_safetensors_that_begin_like_a_pickle(tmp_path, state, name):
    """The length of its header, which comes first, may be of any number."""
    path = tmp_path / name
    for padding in range(0, 512, 8):
        save_file(state, path, metadata={"note": "x" * padding})
        if path.read_bytes().startswith(b"\x80"):
            break
    assert path.read_bytes().startswith(b"\x80")
    assert same(read(path), state)


def test_a_path_with_a_wildcard(tmp_path, state):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    assert same(read(tmp_path / "**" / "open_clip_*model.*"), state)
    save_file({**state, "cls_token": state["cls_token"] + 1}, folder / "open_clip_model.safetensors")
    assert not same(read(tmp_path / "**" / "open_clip_*model.*"), state), "safetensors go first"
    torch.save(state, folder / "other.pth")
    torch.save(state, folder / "another.pth")
    with pytest.raises(FggError, match=r"model\.weights: .* matches 2 files"):
        read(folder / "*other.pth")
    with pytest.raises(FggError, match=r"model\.weights: .* matches nothing"):
        read(folder / "*.pt")


# ---- what else lies in a checkpoint


def renamed(content, old, new):
    """A file of torch.save whose pickle names a module otherwise, as another version would have."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(out, "w") as after:
        for part in before.namelist():
            after.writestr(part, before.read(part).replace(old, new))
    return out.getvalue()


def test_settings_and_numbers_of_a_training_script(tmp_path, state):
    content = saved(
        {
            "args": argparse.Namespace(lr=0.1, output=Path("/somewhere"), best=np.float64(0.5)),
            "accuracy": np.float32(0.25),
            "epoch": np.int64(7),
            "improved": np.bool_(True),
            "losses": np.arange(4.0),
            "state_dict": state,
        }
    )
    (tmp_path / "w.pth").write_bytes(content)
    assert same(read(tmp_path / "w.pth"), state)
    older = renamed(content, b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert older != content
    (tmp_path / "w.pth").write_bytes(older)
    assert same(read(tmp_path / "w.pth"), state), "as numpy 1 wrote it"


def test_the_allowance_ends_with_the_reading(tmp_path, state):
    torch.save({"args": argparse.Namespace(), "model": state}, tmp_path / "w.pth")
    read(tmp_path / "w.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "w.pth", weights_only=True)


def test_an_object_of_a_script_is_refused_by_name(tmp_path, state, monkeypatch):
    module = types.ModuleType("my_training")
    module.Settings = type("Settings", (), {"__module__": "my_training"})
    monkeypatch.setitem(sys.modules, "my_training", module)
    torch.save({"config": module.Settings(), "state_dict": state}, tmp_path / "w.pth")
    assert "it names my_training.Settings, which does not belong to weights; it was refused" in refusal(
        tmp_path / "w.pth"
    )


class Danger:
    """What pickle writes of it asks for a call when it is read."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def in_args(danger):
    args = argparse.Namespace()
    args.lr = danger
    return args


PLACES = {
    "beside the weights": lambda danger, state: {**state, "x": danger},
    "in the state dict": lambda danger, state: {"state_dict": {"head.weight": danger}},
    "in the settings": lambda danger, state: {"args": in_args(danger), "state_dict": state},
    "as a key": lambda danger, state: {"state_dict": state, (1, danger): 2},
    "alone": lambda danger, state: danger,
}


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "tar", "legacy in a tar"])
@pytest.mark.parametrize("place", PLACES)
def test_an_attack_is_named_and_does_not_run(tmp_path, state, form, place):
    marker = tmp_path / "marker"
    content = PLACES[place](Danger(os.system, f"touch {marker}"), state)
    if form == "pickle":
        data = pickle.dumps(content, protocol=2)
    else:
        data = saved(content, _use_new_zipfile_serialization="legacy" not in form)
    path = tmp_path / "w.pth"
    if "tar" in form:
        packed(path, {"results_model/model_best.pth.tar": data})
    else:
        path.write_bytes(data)
    message = refusal(path)
    assert "cannot be read safely as weights" in message
    assert "posix.system" in message or form == "pickle"
    assert not marker.exists()
    if form == "pickle":
        pickle.loads(data)
        assert marker.exists(), "the attack must work where nothing stops it"


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (eval, ("open('MARKER', 'w')",)),
        (exec, ("open('MARKER', 'w')",)),
        (getattr, ("a", "upper")),
        (__import__, ("os",)),
        (open, ("MARKER", "w")),
        (torch.load, ("MARKER",)),
        (torch.hub.load, ("a", "b")),
        (np.load, ("MARKER",)),
        (np.fromfile, ("MARKER",)),
        (argparse.ArgumentParser, ()),
        (argparse.FileType, ("w",)),
        (Path.touch, (Path("MARKER"),)),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_no_other_call_is_allowed(tmp_path, monkeypatch, call, arguments):
    """Neighbours of what is allowed, too."""
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.zeros(1), "x": Danger(call, *arguments)}, tmp_path / "w.pth")
    assert "cannot be read safely as weights: it names" in refusal(tmp_path / "w.pth")
    assert not (tmp_path / "MARKER").exists()


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


PICKLES = {
    "an allowed class with a forged state": (
        b"cargparse\nNamespace\n)\x81}" + text("__class__") + b"cargparse\nNamespace\nsb"
    ),
    "numpy's rebuilding of another class": (
        b"cnumpy._core.multiarray\n_reconstruct\n(cargparse\nNamespace\n(K\x00t" + b"C\x01bt" + b"R"
    ),
    "a storage of a kind that is a call": b"("
    + text("storage")
    + b"cos\nsystem\n"
    + text("0")
    + text("cpu")
    + b"K\x01tQ",
    "a storage whose length is a call": (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"cbuiltins\neval\ntQ"
    ),
    "a persistent name that is none": text("touch marker") + b"Q",
    "a dtype of code": b"cnumpy\ndtype\n(" + text("O; import os") + b"tR",
    "an extension": b"\x82\x01",
    "an instance": b"(" + text("touch marker") + b"ios\nsystem\n",
    "an object": b"(cos\nsystem\n" + text("touch marker") + b"o",
}


@pytest.mark.parametrize("attack", PICKLES)
def test_pickles_written_by_hand(tmp_path, attack, monkeypatch):
    for name in ("system", "popen"):
        monkeypatch.setattr(os, name, lambda *_: pytest.fail("ran"))
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved({}))) as before, zipfile.ZipFile(out, "w") as after:
        for part in before.namelist():
            body = b"\x80\x02}" + text("x") + PICKLES[attack] + b"s."
            after.writestr(part, body if part.endswith("data.pkl") else before.read(part))
    (tmp_path / "w.pth").write_bytes(out.getvalue())
    refusal(tmp_path / "w.pth")
    assert argparse.Namespace.__name__ == "Namespace" and not vars(argparse.Namespace()).keys()


# ---- damage


@pytest.mark.parametrize("form", ["zip", "legacy", "tar", "safetensors"])
def test_a_file_cut_anywhere_is_reported(tmp_path, state, form):
    small = {name: state[name] for name in ("cls_token", "pos_embed", "head.weight")}
    path = tmp_path / "w.pth"
    if form == "safetensors":
        save_file(small, path)
    elif form == "tar":
        packed(path, {"model_best.pth.tar": saved(small)})
    else:
        path.write_bytes(saved(small, _use_new_zipfile_serialization=form == "zip"))
    whole = path.read_bytes()
    assert same(read(path), small)
    for at in range(0, len(whole) - 64, max(1, len(whole) // 40)):
        path.write_bytes(whole[:at])
        with pytest.raises(FggError, match=r"model\.weights: .*(cannot be read safely|no checkpoint)"):
            read(path)


def test_a_flipped_bit_in_a_tensor_is_noticed(tmp_path, state):
    path = tmp_path / "w.pth"
    torch.save(state, path)
    whole = bytearray(path.read_bytes())
    at = whole.find(state["pos_embed"].numpy().tobytes()) + 5
    whole[at] ^= 1
    path.write_bytes(whole)
    assert "it is damaged (at " in refusal(path) and "fetch it again" in refusal(path)


@pytest.mark.parametrize("content", [{"state_dict": {}}, {}, {"state_dict": [1]}, {"encoder": {"a": torch.zeros(1)}}])
def test_no_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    assert "holds no state dict of tensors" in refusal(tmp_path / "w.pth")


# ---- differences that are known


@pytest.mark.parametrize(
    ("file", "model", "hint"),
    [
        ({"global_pool": "avg"}, {}, "set model.kwargs.global_pool to avg"),
        ({}, {"global_pool": "avg"}, "set model.kwargs.global_pool to token"),
        ({"pre_norm": True}, {}, "set model.kwargs.pre_norm to true"),
        ({"init_values": 0.1}, {}, "set model.kwargs.init_values"),
        ({"qk_norm": True}, {}, "set model.kwargs.qk_norm to true"),
        ({"reg_tokens": 2}, {}, "set model.kwargs.reg_tokens"),
        ({"depth": 3}, {}, "see model.kwargs.depth"),
        ({"patch_size": 16, "img_size": 64}, {}, "see model.kwargs.patch_size"),
        ({"num_classes": 9}, {}, "the number of classes is different"),
        ({"num_classes": 0}, {}, "a file without a head has no classes"),
    ],
    ids=str,
)
def test_what_a_difference_tells(tmp_path, file, model, hint):
    classes = file.get("num_classes", 3)
    other = load_model(ARCHITECTURE, KWARGS | {k: v for k, v in file.items() if k != "num_classes"}, None, classes)
    torch.save(other.state_dict(), tmp_path / "w.pth")
    message = refusal(tmp_path / "w.pth", **model)
    assert hint in message and message.count("set model.kwargs") <= 2
    assert any(word in message for word in ("missing: ", "unexpected: ", "wrong shape: "))
