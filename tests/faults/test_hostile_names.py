"""Names of files that no one expects, and tables of names with open quotes: read, or counted and named; never lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hostile import at_most, refused
from PIL import Image

from fgg.cases.feature_names import read_feature_names
from fgg.data.load import load_split
from fgg.data.prepare import prepare
from fgg.data.sources.records import Record
from fgg.data.sources.registry import open_source
from fgg.tables import read_json

SETTINGS = {
    "source": "image_folder", "fractions": {"train": 0.5, "val": 0.25, "test": 0.25}, "max_skipped": 0.0, "seed": 0,
}  # fmt: skip
READ = [
    "-rf.png", "--help.png", "a b.png", "a;b.png", "a|b.png", "a&b.png", "$HOME.png", "`x`.png", "$(x).png", "*.png", "a?.png",
    "[a].png", "{a}.png", "{0}.png", "%s.png", "~.png", "#a.png", "a#b.png", "a,b.png", "a'b.png", 'a"b.png', "<b>.png",
    "=1+1.png", "+1.png", "@a.png", "Größe.png", "日本.png", "🙂.png", "a\u202egnp.png", "a\u200bb.png", "e\u0301.png",
    "é.png", "\\.png", "a\\nb.png", "CON.png", "nul.png", "a:b.png", "a" * 240 + ".png", "a..png", "...a.png"[2:], "1.png",
    "NA.png", "null.png", "train.png", "image_id.png", "a.PNG", "A.png.png",
]  # fmt: skip
SKIPPED = {
    b"a\nb.png": "control characters", b"a\rb.png": "control characters", b"a\tb.png": "control characters",
    b"\x1b[2J.png": "control characters", b"a\x7fb.png": "control characters", b"a\x01.png": "control characters",
    "a\x85b.png".encode(): "control characters", b"\xff.png": "not valid UTF-8", b"Gr\xf6\xdfe.png": "not valid UTF-8",
    b"\xed\xb3\xbf.png": "not valid UTF-8", b"a\xc3.png": "not valid UTF-8",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (4, 4)).save(tmp_path / "images" / label / f"own{number}.png")
    return tmp_path / "images"


def opened(folder: Path):
    return open_source({"source": "image_folder", "path": str(folder)})


def put(folder: Path, name: str | bytes) -> None:
    data = (folder / "cat/own0.png").read_bytes()
    (folder / "cat" / os.fsdecode(name)).write_bytes(data)


def test_odd_names_are_read_and_come_back(folder, tmp_path):
    """All at once: ids, labels and bytes of a whole preparation."""
    for name in READ:
        if name.startswith("."):
            continue
        put(folder, name)
    wanted = {f"cat/{name}" for name in READ if not name.startswith(".")}
    record = prepare("it", SETTINGS | {"path": str(folder)}, tmp_path / "out")
    assert record["n_read"] == len(wanted) + 8 and record["skipped"] == []
    ids = [own for split in ("train", "val", "test") for own in load_split(tmp_path / f"out/{split}.parquet").image_ids]
    assert len(set(ids)) == len(ids) == record["n_read"]
    assert {name.rsplit(".", 1)[0] for name in wanted} <= {own.removesuffix(".PNG") for own in ids}
    assert read_json(tmp_path / "out/dataset.json")["n_read"] == record["n_read"]


@pytest.mark.parametrize("name", SKIPPED, ids=repr)
def test_names_that_are_no_text_are_counted_and_named(folder, tmp_path, name):
    put(folder, name)
    record = prepare("it", SETTINGS | {"path": str(folder)}, tmp_path / "out")
    (told,) = record["skipped"]
    assert SKIPPED[name] in told["reason"] and record["n_skipped"] == 1 and record["n_read"] == 8
    assert told["path"].startswith("cat/") and told["path"].isprintable()


@pytest.mark.parametrize("name", [b"a\nb", b"\x1b[2J", b"\xff", b"a\tb", b"a\rb"], ids=repr)
def test_classes_whose_names_are_no_text(folder, name):
    (folder / "dog").rename(folder / os.fsdecode(name))
    with refused("the class folder .* has a name with control characters, or that is not valid UTF-8; rename it"):
        opened(folder)


@pytest.mark.parametrize("name", ["<b>x", "=1+1", "$x$", "a_b^{c", "-rf", "Größe", "{x}", "%s", "NA", "a,b", '"'])
def test_classes_of_any_other_name(folder, name):
    (folder / "dog").rename(folder / name)
    assert {record.label_name for record in opened(folder).records} == {"cat", name}


def test_what_is_no_plain_file(folder, tmp_path):
    """A pipe would never end, a link out of the folder is only a file, and links in a circle are told."""
    os.mkfifo(folder / "cat/pipe.png")
    (folder / "cat/loop.png").symlink_to("loop.png")
    (folder / "cat/gone.png").symlink_to("nowhere.png")
    (folder / "cat/device.png").symlink_to("/dev/zero")
    with at_most(64):
        record = prepare("it", SETTINGS | {"path": str(folder), "max_skipped": 0.5}, tmp_path / "out")
    assert sorted(entry["path"] for entry in record["skipped"]) == [
        "cat/device.png", "cat/gone.png", "cat/loop.png", "cat/pipe.png",
    ]  # fmt: skip
    assert record["n_read"] == 8


def test_files_that_claim_a_terabyte_are_unreadable(folder, tmp_path):
    with (folder / "cat/huge.png").open("wb") as file:
        file.truncate(2**40)
    with at_most(64):
        record = prepare("it", SETTINGS | {"path": str(folder), "max_skipped": 0.5}, tmp_path / "out")
    (told,) = record["skipped"]
    assert told["path"] == "cat/huge.png" and "larger than" in told["reason"]


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    record = Record("x", "x.png", "cat", None, tmp_path / "x.png", mask_file=tmp_path / "x.png")
    for read in (lambda: record.data, lambda: record.extras):
        with pytest.raises(OSError, match="not a regular file"):
            read()


# ---- feature_names.csv

HEAD = "dataset,layer,feature,name\n"
# text after the head -> the names of layer 2, and the lines that are told
TABLES: dict[str, tuple[str, dict[int, str], list[str]]] = {
    "an open quote": ('elpv,2,1,"bus bar\nelpv,2,2,crack\n', {2: "crack"}, ["line 2"]),
    "an open quote, closed rows later": ('elpv,2,1,"bus\nelpv,2,2,crack\nelpv,2,3,y"\n', {2: "crack", 3: 'y"'}, ["line 2"]),
    "an open quote before a quoted name": ('elpv,2,1,"bus\nelpv,2,2,"crack"\n', {2: "crack"}, ["line 2"]),
    "an open quote at the end": ('elpv,2,1,bus\nelpv,2,2,"crack', {1: "bus"}, ["line 3"]),
    "two open quotes": ('elpv,2,1,"a\nelpv,2,2,"b\nelpv,2,3,c\n', {3: "c"}, ["line 2", "line 3"]),
    "an open quote in another cell": ('"elpv,2,1,a\nelpv,2,2,b\n', {2: "b"}, ["line 2"]),
    "a name of two lines": ('elpv,2,1,"bus\nbar"\nelpv,2,2,b\n', {1: "bus bar", 2: "b"}, []),
    "a quote within a name": ('elpv,2,1,6" pipe\nelpv,2,2,b\n', {1: '6" pipe', 2: "b"}, []),
    "doubled quotes": ('elpv,2,1,"a ""b"" c"\n', {1: 'a "b" c'}, []),
    "letters behind a quote": ('elpv,2,1,"a"b\nelpv,2,2,c\n', {1: "ab", 2: "c"}, []),
    "a comma without quotes": ("elpv,2,1,a,b\nelpv,2,2,c\n", {2: "c"}, ["line 2"]),
    "empty cells at the end": ("elpv,2,1,a,,\n", {1: "a"}, []),
    "too few cells": ("elpv,2\nelpv,2,2,c\n", {2: "c"}, ["line 2"]),
    "a formula": ("elpv,2,1,=1+1\nelpv,2,2,'=1+1\nelpv,2,3,'-x\n", {1: "=1+1", 2: "=1+1", 3: "-x"}, []),
    "HTML": ("elpv,2,1,<script>alert(1)</script>\n", {1: "<script>alert(1)</script>"}, []),
    "an escape of the terminal": ("elpv,2,1,\x1b[2Jx\n", {1: "\\x1b[2Jx"}, []),
    "another direction": ("elpv,2,1,a\u202eb\n", {1: "a\\u202eb"}, []),
    "a separator of lines": ("elpv,2,1,a\u2028b\n", {1: "a b"}, []),
    "a long name": (f"elpv,2,1,{'a' * 10**5}\nelpv,2,2,b\n", {1: "a" * 200, 2: "b"}, []),
    "a line beyond csv's limit": (f"elpv,2,1,{'a' * 10**6}\nelpv,2,2,b\n", {2: "b"}, ["line 2"]),
    "numbers beyond all layers": ("elpv,2,99999999999999999999,a\nelpv,-1,1,a\nelpv,2,2,b\n", {2: "b"}, ["line 2", "line 3"]),
    "paths as data sets": ("../../x,2,1,a\nelpv,2,2,b\n", {2: "b"}, []),
    "lines of old Macs": ("elpv,2,1,a\relpv,2,2,b\r", {1: "a", 2: "b"}, []),
    "empty lines": ("\n\n ,,,\nelpv,2,1,a\n\n", {1: "a"}, []),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_names(tmp_path, kind):
    text, names, told = TABLES[kind]
    (tmp_path / "feature_names.csv").write_bytes((HEAD + text).encode())
    with at_most(32):
        found = read_feature_names(tmp_path / "feature_names.csv")
    assert found.of_layer("elpv", 2) == names
    assert len(found.remarks) == len(told), found.remarks
    for line, remark in zip(told, found.remarks, strict=True):
        assert f"{line} is left out" in remark and "\n" not in remark


FILES = {
    "a pickle": b"\x80\x02cos\nsystem\n(X\x05\0\0\0touchtR.",
    "a spreadsheet": b"PK\x03\x04" + bytes(100),
    "UTF-16": HEAD.encode("utf-16"),
    "an open quote in the head": b'dataset,layer,"feature,name\nelpv,2,1,a\n',
    "a head without names": b"a,b,c\n",
}


@pytest.mark.parametrize("kind", FILES)
def test_what_is_no_table_of_names(tmp_path, kind):
    (tmp_path / "feature_names.csv").write_bytes(FILES[kind])
    with refused("feature_names.csv (is|lacks)"):
        read_feature_names(tmp_path / "feature_names.csv")


def test_a_huge_table_of_names_is_refused(tmp_path):
    with (tmp_path / "feature_names.csv").open("wb") as file:
        file.truncate(2**34)
    with refused("is larger than"):
        read_feature_names(tmp_path / "feature_names.csv")
