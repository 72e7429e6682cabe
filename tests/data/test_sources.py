"""Sources: the registry, the embedded set, folders of images."""

import csv
import importlib.util
from collections import Counter
from pathlib import Path

import pytest

from fgg.data.sources.registry import open_source
from fgg.errors import FggError


def folder_source(path):
    return open_source({"source": "image_folder", "path": str(path)})


def test_unknown_names_are_refused():
    with pytest.raises(
        FggError,
        match="'elvp' is unknown; choose from: covidquex, digits, elpv, hyperkvasir, image_folder, imagenet, planted",
    ):
        open_source({"source": "elvp"})


def test_elpv_is_what_its_annotations_say():
    own = open_source({"source": "elpv"})
    labels = Path(importlib.util.find_spec("elpv_dataset").origin).parent / "data" / "labels.csv"
    with labels.open() as file:
        rows = list(csv.reader(file, delimiter=" ", skipinitialspace=True))
    expected = Counter((kind, float(p) >= 0.5) for _, p, kind in rows)
    found = Counter(record.label_name for record in own.records)
    assert found == {
        "mono-functional": expected["mono", False],
        "mono-defective": expected["mono", True],
        "poly-functional": expected["poly", False],
        "poly-defective": expected["poly", True],
    }
    assert sorted(found.values()) == [369, 452, 705, 1098]
    assert len({record.image_id for record in own.records}) == 2624
    first = own.records[0]
    assert (first.image_id, first.path, first.split) == ("cell0001", "images/cell0001.png", None)
    assert first.data.startswith(b"\x89PNG")
    assert own.licence == "CC BY-NC-SA 4.0" and "Buerhop-Lutz" in own.citation
    assert own.version and len(own.checksum) == 64


def test_elpv_missing_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FggError, match="pip install"):
        open_source({"source": "elpv"})


def test_folder_of_classes(folder):
    own = folder_source(folder({"b": 2, "a": 1}))
    assert [(r.image_id, r.path, r.label_name, r.split) for r in own.records] == [
        ("a/000", "a/000.png", "a", None),
        ("b/000", "b/000.png", "b", None),
        ("b/001", "b/001.png", "b", None),
    ]
    assert own.skipped == []


def test_folder_with_splits(folder):
    own = folder_source(folder({f"{split}/{c}": 1 for split in ("train", "val", "test") for c in "ab"}))
    assert Counter((r.split, r.label_name) for r in own.records) == Counter(
        {(split, c): 1 for split in ("train", "val", "test") for c in "ab"}
    )
    assert own.records[0].image_id == "test/a/000"


def test_equal_stems_keep_their_suffix(folder, picture):
    root = folder({"a": 1, "b": 1})
    for name in ("000.jpg", "000.png.png", "0.1.bmp"):
        picture().save(root / "a" / name)
    ids = [record.image_id for record in folder_source(root).records]
    assert ids == ["a/0.1", "a/000.jpg", "a/000.png", "a/000.png.png", "b/000"]


def test_what_is_no_image_is_named(folder):
    root = folder({"a": 1, "b": 1, "a/nested": 1})
    (root / "README.txt").write_text("x")
    (root / "a" / "notes.csv").write_text("x")
    (root / "a" / ".hidden.png").write_text("x")
    (root / ".git").mkdir()
    (root / "a" / "UPPER.PNG").write_bytes((root / "a" / "000.png").read_bytes())
    (root / "b" / "moving.gif").write_bytes((root / "b" / "000.png").read_bytes())
    own = folder_source(root)
    assert {entry["path"] for entry in own.skipped} == {"README.txt", "a/notes.csv", "a/nested"}
    assert all(entry["reason"] for entry in own.skipped)
    assert [record.image_id for record in own.records] == ["a/000", "a/UPPER", "b/000", "b/moving"]


def test_links_and_odd_names(folder):
    root = folder({"a": 1, "b": 1})
    (root / "a" / "link.png").symlink_to(root / "b" / "000.png")
    (root / "a" / "dangling.png").symlink_to(root / "nowhere.png")
    (root / "a" / "ünï çode.png").symlink_to(root / "b" / "000.png")
    try:
        (root / "a" / "bad\udcff.png").write_bytes(b"")
    except OSError:  # some file systems refuse such names
        pass
    else:
        assert [entry["reason"] for entry in folder_source(root).skipped] == ["its name is not valid UTF-8"]
    ids = [record.image_id for record in folder_source(root).records]
    assert ids == ["a/000", "a/dangling", "a/link", "a/ünï çode", "b/000"]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "has no class folders"),
        ({"a": 0, "b": 0}, "class folder .*/a has no images"),
        ({"a": 1, "b": 1, "c": 0}, "class folder .*/c has no images"),
        ({"a": 3}, r"one class only \(a\)"),
        ({"train/a": 1, "train/b": 1}, "has train but lacks val, test"),
        (
            {"train/a": 1, "test/a": 1, "validation/a": 1},
            r"has test, train but lacks val \(other folders: validation\)",
        ),
        ({"train/a": 1, "val/a": 1, "test/a": 1, "more/a": 1}, "other folders beside .*: more"),
        ({"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1, "test/b": 1}, "test has no images of a"),
        (
            {"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1, "test/a": 0, "test/b": 0},
            "class folder .*/test/a has no images",
        ),
    ],
)
def test_unusable_folders(folder, tmp_path, counts, message):
    root = folder(counts)
    root.mkdir(exist_ok=True)
    with pytest.raises(FggError, match=message) as error:
        folder_source(root)
    assert str(root) in str(error.value)
    assert any(word in str(error.value) for word in ("lay it out", "add", "move", "needs"))


def test_missing_folder_and_file(tmp_path):
    with pytest.raises(FggError, match=r"nowhere does not exist; set `path`"):
        folder_source(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(FggError, match=r"file is not a folder; set `path`"):
        folder_source(tmp_path / "file")
    with pytest.raises(FggError, match="`path` is missing"):
        open_source({"source": "image_folder", "path": None})


def test_digits_are_those_of_scikit_learn():
    import io

    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    own, theirs = open_source({"source": "digits"}), load_digits()
    assert len(own.records) == len({record.image_id for record in own.records}) == 1797
    for number in (0, 5, 1796):
        record = own.records[number]
        grey = np.asarray(Image.open(io.BytesIO(record.data)))
        assert grey.shape == (8, 8)
        np.testing.assert_allclose(grey / 255, theirs.images[number] / 16, atol=0.5 / 255)
        assert record.label_name == str(theirs.target[number])
    assert Counter(record.label_name for record in own.records) == Counter(map(str, theirs.target))
    assert own.licence == "CC BY 4.0" and "Alpaydin" in own.citation
    assert own.checksum == open_source({"source": "digits"}).checksum
