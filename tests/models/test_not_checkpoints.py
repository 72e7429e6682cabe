"""Files and places that are given as weights and are something else: refused in one message that says what they are."""

import gzip
import json
import os
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from brought import make, refusal
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def state():
    return make().state_dict()


def zip_of(path, state):
    torch.save(state, path.with_name("inner"))
    with zipfile.ZipFile(path, "w") as file:
        file.write(path.with_name("inner"), "weights/inner.pth")


def gzip_of(path, state):
    torch.save(state, path.with_name("inner"))
    path.write_bytes(gzip.compress(path.with_name("inner").read_bytes()))


def tar_with_a_path(path, state):
    torch.save(state, path.with_name("inner"))
    with tarfile.open(path, "w") as file:
        file.add(path.with_name("inner"), "../../model.txt")


def scripted(path, _state):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), path)


def header_beyond(path, _state):
    path.write_bytes(struct.pack("<Q", 10**15) + b"{}")


def overlapping(path, _state):
    header = {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "b": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}}  # fmt: skip
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(24))


FILES = {
    "empty": (lambda path, _state: path.write_bytes(b""), "is empty"),
    "one byte": (lambda path, _state: path.write_bytes(b"\x80"), "cannot be read safely as weights"),
    "zeros": (lambda path, _state: path.write_bytes(bytes(4096)), "cannot be read safely as weights"),
    "zip of weights": (zip_of, "a zip that torch.save did not write; unpack it"),
    "gzip of weights": (gzip_of, "cannot be read safely as weights"),
    "tar with a path upwards": (tar_with_a_path, "is an archive with no checkpoint"),
    "TorchScript": (scripted, "TorchScript"),
    "numpy's archive": (lambda path, _state: np.savez(path.open("wb"), a=np.ones(3)), "numpy"),
    "numpy's array": (lambda path, _state: np.save(path.open("wb"), np.ones(3)), "numpy"),
    "HDF5": (lambda path, _state: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), "HDF5"),
    "ONNX": (lambda path, _state: path.write_bytes(b"\x08\x08\x12\x07pytorch" + bytes(100)), "cannot be read safely as weights"),
    "git's pointer": (
        lambda path, _state: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
        "git lfs pull",
    ),
    "a web page": (lambda path, _state: path.write_text("<!DOCTYPE html><html>404</html>"), "web page"),
    "JSON": (lambda path, _state: path.write_text('{"a": 1}'), "cannot be read"),
    "a header beyond the file": (header_beyond, "cannot be read safely as weights"),
    "overlapping tensors": (overlapping, "cannot be read safely as weights"),
    "a PNG": (lambda path, _state: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), "cannot be read safely as weights"),
}  # fmt: skip


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_files_that_are_no_weights(tmp_path, state, form, name):
    write, part = FILES[form]
    write(tmp_path / name, state)
    assert part in refusal(tmp_path / name)


def loop(path):
    path.symlink_to(path.name)


def dangling(path):
    path.symlink_to("nowhere")


def pipe(path):
    os.mkfifo(path)


def folder_of_folders(path):
    (path / "a" / "b").mkdir(parents=True)


@pytest.mark.parametrize(
    ("make_it", "part"),
    [
        (loop, "w.pth"),
        (dangling, "does not exist"),
        (pipe, "is no file"),
        (lambda path: path.mkdir(), "holds none"),
        (folder_of_folders, "holds none"),
    ],
)
def test_places_that_are_no_files(tmp_path, make_it, part):
    make_it(tmp_path / "w.pth")
    assert part in refusal(tmp_path / "w.pth")


@pytest.mark.parametrize("place", ["/etc/passwd", "../w.safetensors", "a/../../w.safetensors", "", 3, None])
def test_an_index_that_leads_elsewhere(tmp_path, state, place):
    save_file(state, tmp_path / "model-00001-of-00001.safetensors")
    placed = dict.fromkeys(state, "model-00001-of-00001.safetensors") | {"norm.bias": place}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    assert "model.safetensors.index.json" in refusal(tmp_path / "model.safetensors.index.json")


def test_a_file_that_may_not_be_read(tmp_path, state):
    torch.save(state, tmp_path / "w.pth")
    (tmp_path / "w.pth").chmod(0)
    if os.access(tmp_path / "w.pth", os.R_OK):
        pytest.skip("this user may read everything")
    assert "permission" in refusal(tmp_path / "w.pth").lower()
