"""Files of weights that are made to do harm, in every place where fgg reads one: no code runs, memory is bounded."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from handmade_pickles import ATTACKS, HARM, call, saved, tensor, text, torch_zip, whole
from hostile import refused
from weight_places import FEATURES, PLACES, PRISMA, WIDTH, sae_lens, state

from fgg.errors import FggError
from fgg.models.checkpoints import read
from fgg.saes.sae import load_sae

pytestmark = pytest.mark.filterwarnings(
    "ignore:Detected pickle protocol", "ignore:Validating sparse", "ignore:.*sparse"
)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Work in an empty folder; no payload may have made a file there."""
    monkeypatch.chdir(tmp_path)
    load_some_sae(tmp_path)  # sae-lens is imported before memory is measured
    yield
    assert not (tmp_path / HARM).exists(), "code of the file ran"


_imported: list[bool] = []


def load_some_sae(folder: Path) -> None:
    if not _imported:
        load_sae(sae_lens(folder / "some"))
        _imported.append(True)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("wrap", ["zip", "bare"])
def test_pickles_that_call(tmp_path, place, attack, wrap):
    own = saved({"W_enc": ATTACKS[attack]}, before=ATTACKS[attack] + b"0")
    with refused("sae.weights|model.weights"):
        PLACES[place](torch_zip(own) if wrap == "zip" else own)(tmp_path)
    assert not (tmp_path / HARM).exists()


NAMES = ("W_enc", "W_dec", "b_enc", "b_dec")
BIG = 2**15  # squared, 4 GB in float32


def weights(own: bytes, **others: bytes) -> bytes:
    """A state dict of Prisma's whose W_enc is given."""
    good = {
        "W_enc": own, "W_dec": tensor((FEATURES, WIDTH)), "b_enc": tensor((FEATURES,)), "b_dec": tensor((WIDTH,)),
    }  # fmt: skip
    return saved({**good, **others})


def nested(depth: int, opening: bytes, closing: bytes) -> bytes:
    return opening * depth + closing * depth


BOMBS: dict[str, Callable[[], bytes]] = {
    "records that are packed": lambda: torch_zip(
        weights(tensor((WIDTH, 2**24), count=2**26)), {"data/0": bytes(2**28)}, zipfile.ZIP_DEFLATED
    ),
    "a record that is missing": lambda: torch_zip(weights(tensor((WIDTH, FEATURES), key="7"))),
    "a storage larger than its record": lambda: torch_zip(weights(tensor((WIDTH, 2**26), count=2**28))),
    "a tensor larger than its storage": lambda: torch_zip(weights(tensor((WIDTH, 2**26)))),
    "a tensor of one number, repeated": lambda: torch_zip(
        weights(
            tensor((BIG, BIG), (0, 0)),
            W_dec=tensor((BIG, BIG), (0, 0)),
            b_enc=tensor((BIG,), (0,)),
            b_dec=tensor((BIG,), (0,)),
        )
    ),
    "a tensor of 2^80 numbers": lambda: torch_zip(weights(tensor((2**40, 2**40), (0, 0)))),
    "a tensor of negative size": lambda: torch_zip(weights(tensor((-1, FEATURES)))),
    "a tensor before its storage": lambda: torch_zip(weights(tensor((WIDTH, FEATURES), (-6, 1)))),
    "a bytearray of 1 GB": lambda: torch_zip(weights(call("builtins", "bytearray", whole(2**30)))),
    "a tensor made by a call": lambda: torch_zip(weights(call("torch", "Tensor", whole(2**14), whole(2**14)))),
    "an array made by a call": lambda: torch_zip(
        weights(call("numpy", "ndarray", b"(" + whole(2**20) + whole(2**22) + b"t"))
    ),
    "a storage made by a call": lambda: torch_zip(weights(call("torch", "FloatStorage", whole(2**28)))),
    "a sparse tensor of 2^60 numbers": lambda: torch_zip(
        weights(
            call(
                "torch._utils",
                "_rebuild_sparse_tensor",
                call("torch.serialization", "_get_layout", text("torch.sparse_coo")),
                b"(" + tensor((1, 0)) + tensor((0,)) + b"(" + whole(2**60) + b"t\x88t",
            )
        )
    ),
    "a tensor on the meta device": lambda: torch_zip(
        weights(
            call(
                "torch._utils",
                "_rebuild_meta_tensor_no_storage",
                b"ctorch\nfloat32\n",
                b"(" + whole(BIG) + whole(BIG) + b"t",
                b"(" + whole(BIG) + whole(1) + b"t",
                b"\x89",
            )
        )
    ),
    "a memo of 2^26 places": lambda: torch_zip(weights(call("vit_prisma.x", "X") + b"r" + struct.pack("<L", 2**26))),
    "a bytearray that claims 1 GB": lambda: torch_zip(weights(b"\x96" + struct.pack("<Q", 2**30))),
    "bytes that claim 1 GB": lambda: torch_zip(weights(b"\x8e" + struct.pack("<Q", 2**30))),
    "a frame that claims 1 GB": lambda: torch_zip(b"\x80\x04\x95" + struct.pack("<Q", 2**30) + weights(b"N")[2:]),
    "lists within lists": lambda: torch_zip(weights(nested(30_000, b"](", b"e"))),
    "tuples within tuples": lambda: torch_zip(weights(nested(30_000, b"(", b"t"))),
    "dictionaries within dictionaries": lambda: torch_zip(
        saved({"state_dict": nested(30_000, b"}(" + text("model"), b"u")[:-1] + b"Nu"})
    ),
    "a list that holds itself": lambda: torch_zip(weights(b"]q\x05h\x05a")),
    "a number of a million digits": lambda: torch_zip(weights(b"I" + b"9" * 10**6 + b"\n")),
    "a pickle without an end": lambda: torch_zip(weights(b"N")[:-1]),
    "no pickle": lambda: torch_zip(b""),
    "a pickle of zeros": lambda: torch_zip(bytes(10_000)),
}


@pytest.fixture
def deterministic() -> Iterator[None]:
    """The mode of the jobs that train, in which torch fills the memory of a tensor without content."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("place", ["Prisma's folder", "overcomplete", "a checkpoint .pth"])
def test_files_that_would_fill_the_memory(tmp_path, place, kind, deterministic):
    with refused("sae.weights|model.weights", 200):
        PLACES[place](BOMBS[kind]())(tmp_path)


# ---- safetensors


def safe(header: bytes, data: bytes = bytes(64), claimed: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if claimed is None else claimed) + header + data


def entries(**changes: Any) -> bytes:
    """A header for the SAE's tensors, one of them changed."""
    found: dict[str, Any] = {}
    at = 0
    for name, own in state().items():
        found[name] = {"dtype": "F32", "shape": list(own.shape), "data_offsets": [at, at + own.numel() * 4]}
        at += own.numel() * 4
    for name, change in changes.items():
        found[name] = {**found.get(name, found["W_enc"]), **change}
    return json.dumps(found).encode()


def overlapping() -> bytes:
    names = NAMES
    return json.dumps({name: {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]} for name in names}).encode()


BAD_HEADERS: dict[str, bytes] = {
    "a header of 2^63 bytes": safe(b"{}", claimed=2**63),
    "a header of 2^40 bytes": safe(b"{}", claimed=2**40),
    "a header longer than the file": safe(b"{}", claimed=10**6),
    "no header": safe(b"", b"", claimed=0),
    "a header of blanks": safe(b" " * 10**6),
    "a header that is nested": safe(b'{"a":' * 10**5 + b"1" + b"}" * 10**5),
    "a list as header": safe(b"[" * 10**6),
    "tensors that overlap": safe(overlapping()),
    "offsets beyond the file": safe(entries(W_enc={"data_offsets": [0, 2**40]}), bytes(232)),
    "offsets in reverse": safe(entries(W_enc={"data_offsets": [96, 0]}), bytes(232)),
    "offsets below zero": safe(entries(W_enc={"data_offsets": [-96, 0]}), bytes(232)),
    "a shape whose product overflows": safe(entries(W_enc={"shape": [2**33, 2**33]}), bytes(232)),
    "a shape whose product is 0 by overflow": safe(entries(W_enc={"shape": [2**32, 2**32], "data_offsets": [0, 0]})),
    "a shape of 2^70": safe(entries(W_enc={"shape": [2**70]}), bytes(232)),
    "a shape below zero": safe(entries(W_enc={"shape": [-4, -6]}), bytes(232)),
    "an unknown dtype": safe(entries(W_enc={"dtype": "F31"}), bytes(232)),
    "a gap between tensors": safe(entries(), bytes(300)),
    "a file of zeros": bytes(10_000),
    "an empty file": b"",
    "a name of 1 MB": safe(entries(**{"x" * 2**20: {"data_offsets": [2**50, 2**51]}}), bytes(232)),
}


@pytest.mark.parametrize("kind", BAD_HEADERS)
@pytest.mark.parametrize("place", ["sae-lens' weights", "a checkpoint .safetensors"])
def test_headers_of_safetensors(tmp_path, place, kind):
    with refused("sae.weights|model.weights", 100):
        PLACES[place](BAD_HEADERS[kind])(tmp_path)


def test_what_the_helpers_write_is_read(tmp_path):
    """The handwritten files are right but for what each test changes."""
    (tmp_path / "config.json").write_text(json.dumps(PRISMA))
    (tmp_path / "weights.pt").write_bytes(torch_zip(weights(tensor((WIDTH, FEATURES)))))
    assert load_sae(tmp_path).W_dec.shape == (FEATURES, WIDTH)
    (tmp_path / "x.safetensors").write_bytes(safe(entries(), bytes(232)))
    from safetensors.torch import load_file

    assert set(load_file(tmp_path / "x.safetensors")) == set(NAMES)
    assert pickle.loads(saved({"a": b"N"})) == {"a": None}
    with pytest.raises(FggError, match="holds no state dict"):
        read(checkpoint_of(tmp_path))


def checkpoint_of(folder: Path) -> Path:
    (folder / "x.pth").write_bytes(torch_zip(b"\x80\x02}."))
    return folder / "x.pth"


@pytest.mark.parametrize("place", ["Prisma's folder", "overcomplete", "saev", "sae-lens' weights", "a checkpoint .pth"])
@pytest.mark.parametrize("size", [2**30, 2**40])
def test_files_that_claim_to_be_long(tmp_path, place, size):
    """Sparse files, which take no room on the disk."""
    with refused("sae.weights|model.weights", 64):
        PLACES[place](b"{" if place == "saev" else b"\0")(tmp_path)
    largest = max(tmp_path.glob("*"), key=lambda path: path.suffix in (".pt", ".pth", ".safetensors"))
    with largest.open("ab") as file:
        file.truncate(size)
    with refused("sae.weights|model.weights", 64):
        read(largest) if place == "a checkpoint .pth" else load_sae(largest)
