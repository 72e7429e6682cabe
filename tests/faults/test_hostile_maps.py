"""Parquet and numpy files that claim more than they hold, or hold objects: refused before memory is taken."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import at_most, refused
from PIL import Image

from fgg.attribution.external import read_maps
from fgg.data.sample import listed
from fgg.data.sources.registry import open_source

IDS = ["a", "b", "c"]
MANY = 2**24  # some kilobytes of a column that repeats one value


class Harm:
    """Unpickled, it would make a file."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("harm",)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "harm").exists(), "code of the file ran"


def npy(shape: tuple[int, ...], data: bytes = b"", descr: str = "<f4", version: int = 1) -> bytes:
    """A numpy file that claims a shape."""
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    head += b" " * (-len(head) % 64) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<L", len(head)) + head + data


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(relevance: bytes, method: int = zipfile.ZIP_DEFLATED, ids: bytes | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as parts:
        parts.writestr("image_id.npy", saved(np.array(IDS)) if ids is None else ids)
        parts.writestr("relevance.npy", relevance)
    return buffer.getvalue()


def parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    return buffer.getvalue()


def same(value: Any, count: int = MANY) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int8)), pa.array([value]))


def one_row(count: int) -> bytes:
    """Three maps, of which one has so many values."""
    values = pa.array(np.zeros(count + 32, np.float32))
    lists = pa.ListArray.from_arrays(pa.array([0, 16, 32, count + 32], pa.int32()), values)
    return parquet(image_id=IDS, relevance=lists)


def nested(depth: int) -> bytes:
    kind: pa.DataType = pa.float32()
    for _ in range(depth):
        kind = pa.list_(kind)
    return parquet(image_id=IDS, relevance=pa.nulls(3, kind))


OBJECTS = np.array([Harm(), Harm(), Harm()], dtype=object)
GOOD = saved(np.zeros((3, 16), np.float32))
# name -> the file's name and bytes
MAPS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "npz: objects": ("m.npz", lambda: npz(saved(OBJECTS))),
    "npz: objects as names": ("m.npz", lambda: npz(GOOD, ids=saved(OBJECTS))),
    "npz: a record with objects": ("m.npz", lambda: npz(npy((3,), bytes(48), "|O"))),
    "npz: a shape of 2^40": ("m.npz", lambda: npz(npy((3, 2**40)))),
    "npz: a shape whose product overflows": ("m.npz", lambda: npz(npy((2**32, 2**32)))),
    "npz: a shape below zero": ("m.npz", lambda: npz(npy((3, -16), bytes(192)))),
    "npz: a shape of 4 GB": ("m.npz", lambda: npz(npy((3, 2**28)))),
    "npz: a gigabyte, packed": ("m.npz", lambda: npz(npy((3, 2**24), bytes(3 * 2**26)))),
    "npz: packed by bzip2": ("m.npz", lambda: npz(npy((3, 2**22), bytes(3 * 2**24)), zipfile.ZIP_BZIP2)),
    "npz: code as its head": ("m.npz", lambda: npz(npy((3, 16), bytes(192)).replace(b"False", b"1/0  "))),
    "npz: a head of 100 MB": ("m.npz", lambda: npz(b"\x93NUMPY\x02\0" + struct.pack("<L", 10**8) + b" " * 10**8)),
    "npz: names of 100 MB": ("m.npz", lambda: npz(GOOD, ids=npy((3,), bytes(3 * 4 * 2**23), f"<U{2**23}"))),
    "npz: an unknown version": ("m.npz", lambda: npz(b"\x93NUMPY\x09\0" + bytes(100))),
    "npz: complex numbers": ("m.npz", lambda: npz(saved(np.zeros((3, 16), np.complex64)))),
    "npz: dates": ("m.npz", lambda: npz(saved(np.zeros((3, 16), "datetime64[s]")))),
    "npz: no zip": ("m.npz", lambda: npy((2**34,))),
    "npz: a pickle": ("m.npz", lambda: b"\x80\x02cos\nmkdir\n(X\x04\0\0\0harmtR."),
    "npz: empty": ("m.npz", lambda: b""),
    "npz: cut": ("m.npz", lambda: npz(GOOD)[:-30]),
    "npy: objects": ("m.npy", lambda: saved(OBJECTS)),
    "parquet: 16 million equal rows": ("m.parquet", lambda: parquet(image_id=same("a"), relevance=same(1.0))),
    "parquet: a row of 16 million values": ("m.parquet", lambda: one_row(MANY)),
    "parquet: long equal names": (
        "m.parquet",
        lambda: parquet(image_id=same("a" * 2**20, 10**4), relevance=same(1.0, 10**4)),
    ),
    "parquet: nested 3,000 times": ("m.parquet", lambda: nested(3000)),
    "parquet: a pickle": ("m.parquet", lambda: b"\x80\x02cos\nmkdir\n(X\x04\0\0\0harmtR."),
    "parquet: a foot of 2 GB": ("m.parquet", lambda: b"PAR1" + struct.pack("<L", 2**31 - 1) + b"PAR1"),
    "parquet: a foot below zero": ("m.parquet", lambda: b"PAR1" + struct.pack("<l", -5) + b"PAR1"),
    "parquet: a foot of noise": ("m.parquet", lambda: b"PAR1" + b"\x19" * 500 + struct.pack("<L", 500) + b"PAR1"),
    "parquet: cut": ("m.parquet", lambda: parquet(image_id=IDS, relevance=[[0.0] * 16] * 3)[:-20]),
    "parquet: bytes": ("m.parquet", lambda: parquet(image_id=IDS, relevance=[b"x"] * 3)),
    "parquet: empty": ("m.parquet", lambda: b""),
}


@pytest.mark.parametrize("kind", MAPS)
def test_maps(plain, tmp_path, kind):
    name, make = MAPS[kind]
    (tmp_path / name).write_bytes(make())
    with refused("experiments.external: .*m.np|experiments.external: .*m.parquet", 150, tmp_path):
        read_maps(tmp_path / name, IDS, plain)


def test_maps_that_are_right_are_read(plain, tmp_path):
    (tmp_path / "m.npz").write_bytes(npz(npy((3, 16), np.ones((3, 16), np.float32).tobytes(), version=2)))
    assert read_maps(tmp_path / "m.npz", IDS, plain).relevance(IDS, 16).sum() == 48


# ---- shards of ImageNet


def png(side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


def shard(folder: Path, images: Any, paths: Any, labels: Any, note: Any = None) -> Path:
    table = pa.table({"image": pa.StructArray.from_arrays([images, paths], ["bytes", "path"]), "label": labels})
    text = note if isinstance(note, bytes) else json.dumps(note or names(["cat", "dog"])).encode()
    table = table.replace_schema_metadata({b"huggingface": text})
    pq.write_table(table, folder / "validation-0.parquet", compression="zstd", store_schema=False,
                   dictionary_pagesize_limit=2**30)  # fmt: skip
    # Arrow's own schema, which would name dictionaries, is left out; the note of datasets is put back.
    _put_note(folder / "validation-0.parquet", text)
    return folder


def _put_note(path: Path, text: bytes) -> None:
    (path.parent / "README.md").write_text("---\ndataset_info:\n  features:\n  - name: label\n    dtype:\n      class_label:\n"
                                           "        names:\n          '0': cat\n          '1': dog\n---\n")  # fmt: skip


def names(own: list[Any]) -> dict[str, Any]:
    return {"info": {"features": {"label": {"names": own}}}}


def opened(folder: Path) -> Any:
    return open_source({"source": "imagenet", "path": str(folder)})


def test_one_image_for_many_rows_is_held_once(tmp_path):
    rows, big = 2000, b"x" * 10**7
    shard(tmp_path, same(big, rows), pa.array([f"{i}.png" for i in range(rows)]), pa.array(np.arange(rows) % 2))
    with at_most(64):
        found = opened(tmp_path)
        assert len(found.records) == rows
        assert [len(found.records[at].data) for at in (0, 999, 1999)] == [10**7] * 3


def test_one_name_for_many_rows_is_held_once(tmp_path):
    rows = 20_000
    shard(tmp_path, same(png(), rows), same("p" * 10**6, rows), pa.array(np.arange(rows) % 2))
    with at_most(96):
        found = opened(tmp_path)
        assert max(len(record.path) for record in found.records) < 200


def test_a_group_of_images_that_claims_too_much_is_unreadable(tmp_path, monkeypatch):
    from fgg.data.sources import records

    monkeypatch.setattr(records, "MOST_GROUP_BYTES", 10**5)
    shard(tmp_path, pa.array([b"a" * 10**5, b"b" * 10**5]), pa.array(["a", "b"]), pa.array([0, 1]))
    found = opened(tmp_path)
    for record in found.records:
        with pytest.raises(OSError, match=r"row group claims 200,0.. bytes of images; allowed are 100,000"):
            _ = record.data


def test_too_many_rows(tmp_path):
    shard(tmp_path, same(b"", MANY), same("p"), pa.array(np.zeros(MANY, np.int8)))
    with refused("validation-0.parquet cannot be read .*claims 16,777,216 rows; allowed are 2,000,000", 64):
        opened(tmp_path)


NOTES: dict[str, bytes] = {
    "nested": b'{"info": ' + b"[" * 10**5,
    "no JSON": b"{",
    "a list": b"[]",
    "names that are a number": json.dumps(names(None)).replace("null", "3").encode(),
    "a name that is a number": json.dumps(names(["cat", 3])).encode(),
    "two equal names": json.dumps(names(["cat", "cat"])).encode(),
    "an empty name": json.dumps(names(["cat", ""])).encode(),
    "a key twice": b'{"info": {}, "info": {}}',
    "not UTF-8": b"\xff\xfe",
}


@pytest.mark.parametrize("kind", NOTES)
def test_class_names_of_a_shard(tmp_path, kind):
    images = pa.StructArray.from_arrays([pa.array([png()] * 2), pa.array(["a", "b"])], ["bytes", "path"])
    table = pa.table({"image": images, "label": [0, 1]}).replace_schema_metadata({b"huggingface": NOTES[kind]})
    pq.write_table(table, tmp_path / "validation-0.parquet")
    with refused("the names of the classes cannot be read", 64):
        opened(tmp_path)


def laughs(levels: int) -> str:
    lines = ["a0: &a0 x"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


HEADS = {
    "aliases": laughs(20),
    "nested": "a: " + "[" * 10**5,
    "no YAML": "a: [1\n",
    "a list": "- 1\n",
    "an object of Python": "a: !!python/object/apply:os.mkdir [harm]\n",
    "names that are no numbers": "dataset_info:\n  features:\n  - name: label\n    dtype:\n      class_label:\n        names:\n"
    "          a: cat\n",
}


@pytest.mark.parametrize("kind", HEADS)
def test_class_names_of_a_model_card(tmp_path, kind):
    images = pa.StructArray.from_arrays([pa.array([png()] * 2), pa.array(["a", "b"])], ["bytes", "path"])
    pq.write_table(pa.table({"image": images, "label": [0, 1]}), tmp_path / "validation-0.parquet")
    (tmp_path / "README.md").write_text(f"---\n{HEADS[kind]}---\n")
    with refused("README.md: the names of the classes cannot be read", 64):
        opened(tmp_path)


# ---- lists of images


LISTS: dict[str, bytes] = {
    "a pickle": b"\x80\x02cos\nmkdir\n(X\x04\0\0\0harmtR.\xff",
    "zeros": bytes(0),
    "not UTF-8": b"\xff\xfe\xfa",
    "only comments": b"# a\n# b\n",
    "an id twice": b"a\nb\na\n",
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_images(tmp_path, kind):
    (tmp_path / "ids").write_bytes(LISTS[kind])
    with refused("sample.ids: .*ids (cannot be read|lists)"):
        listed(tmp_path / "ids")


def test_a_list_of_all_images_is_read_at_once(tmp_path):
    (tmp_path / "ids").write_text("\n".join(f"validation/{i:05}" for i in range(50_000)))
    assert len(listed(tmp_path / "ids")) == 50_000
