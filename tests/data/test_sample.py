"""Exactly the listed images are explained, and nothing is trained on them; the research code's 500 images."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fgg import tables
from fgg.data.load import explained_split
from fgg.data.prepare import prepare
from fgg.data.sample import RESEARCH_CODE, sample_ids
from fgg.data.sources.records import Record
from fgg.errors import FggError

SPLITS = ("train", "val", "test")


def listed(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return {"ids": str(path)}


@pytest.fixture
def root(folder):
    return folder({"a": 10, "b": 10})


def test_the_listed_images_are_explained_and_in_no_other_split(root, settings, tmp_path):
    wanted = ["b/007", "a/001", "a/009", "b/000"]
    sample = listed(tmp_path / "ids.txt", "image_id", "# the ones I looked at", *wanted, "")
    prepare("toy", settings(root, sample=sample, split="test"), tmp_path / "out")
    found = {name: tables.read_table(tmp_path / f"out/{name}.parquet")["image_id"].to_pylist() for name in SPLITS}
    assert set(wanted) <= set(found["test"])
    assert sum(map(len, found.values())) == 20
    assert not set(wanted) & {*found["train"], *found["val"]}
    own = explained_split(tmp_path / "out/test.parquet", {"sample": sample, "max_images": 2, "seed": 0})
    assert own.image_ids == sorted(wanted)
    assert own.label_names == [image_id[0] for image_id in sorted(wanted)]
    assert own.tensors is not None and len(own) == 4


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["a/001", "a/0001", "c/001"],
            "2 of the 3 ids .* are not in the dataset: a/0001, c/001; its ids are like a/000",
        ),
        (["a/001", "a/001"], "lists a/001 more than once"),
        (["# nothing"], "lists no image_id"),
    ],
)
def test_a_wrong_list_is_refused(root, settings, tmp_path, lines, message):
    sample = listed(tmp_path / "ids.txt", *lines)
    with pytest.raises(FggError, match=message):
        prepare("toy", settings(root, sample=sample, split="test"), tmp_path / "out")


def test_a_missing_list_is_refused(root, settings, tmp_path):
    with pytest.raises(FggError, match=r"nowhere\.txt cannot be read"):
        prepare("toy", settings(root, sample={"ids": "nowhere.txt"}, split="test"), tmp_path / "out")


def test_a_sample_in_another_of_the_given_splits_is_refused(folder, settings, tmp_path):
    root = folder({f"{split}/{name}": 2 for split in SPLITS for name in ("a", "b")})
    sample = listed(tmp_path / "ids.txt", "train/a/000")
    with pytest.raises(FggError, match=r"1 of its 1 images are not in the split test.*train/a/000"):
        prepare("toy", settings(root, sample=sample, split="test"), tmp_path / "out")


def test_a_split_prepared_without_the_sample_is_refused(root, settings, tmp_path):
    prepare("toy", settings(root), tmp_path / "out")
    with pytest.raises(FggError, match="was prepared without a sample"):
        explained_split(tmp_path / "out/test.parquet", {"sample": {"ids": "x"}, "max_images": 2, "seed": 0})


def test_the_images_of_the_research_code():
    """In folder order: class by class, within a class by file name, whatever the order of the source."""
    classes = [f"n{number:02}" for number in range(50)]
    records = [
        Record(f"{name}/{number:04}", f"{name}/{number:04}.JPEG", name, None, Path("none"))
        for name in classes
        for number in range(1000)
    ]
    mixed = records.copy()
    random.Random(0).shuffle(mixed)
    random.seed(123)
    expected = sorted(records[place].image_id for place in random.sample(range(50000), 500))
    assert sample_ids(RESEARCH_CODE, mixed, classes) == expected
    with pytest.raises(FggError, match="is defined on ImageNet's 50000 validation images, but this dataset has 49999"):
        sample_ids(RESEARCH_CODE, records[1:], classes)
    assert sample_ids(None, records, classes) == []
