"""Loading a prepared split: subsets, lazy decoding, damaged files."""

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fgg import tables
from fgg.data import prepare as module
from fgg.data.load import load_split
from fgg.data.prepare import prepare
from fgg.data.preprocess import Preprocess
from fgg.errors import FggError

STANDARD = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}


@pytest.fixture
def train(folder, settings, tmp_path, monkeypatch):
    """A train split of 35 + 14 + 7 images in groups of 4 rows, and the folder it comes from."""
    monkeypatch.setattr(module, "GROUP_ROWS", 4)
    root = folder({"a": 50, "b": 20, "c": 10})
    prepare("toy", settings(root), tmp_path / "out")
    return tmp_path / "out" / "train.parquet", root


def test_whole_split(train):
    path, root = train
    split = load_split(path)
    assert len(split) == 56 and split.image_ids == sorted(split.image_ids)
    assert split.labels.dtype == np.int64 and split.classes == ["a", "b", "c"]
    assert split.label_names == [split.classes[label] for label in split.labels]
    assert split.label_names == [image_id.split("/")[0] for image_id in split.image_ids]
    for i in (0, 30, 55):
        original = Image.open(root / f"{split.image_ids[i]}.png")
        assert np.array_equal(np.asarray(split.picture(i)), np.asarray(original))


def test_tensors_follow_the_indices(train):
    path, root = train
    split, preprocess = load_split(path), Preprocess(6, **STANDARD)
    slow = torch.stack([preprocess(Image.open(root / f"{image_id}.png")) for image_id in split.image_ids])
    assert torch.equal(split.tensors(preprocess), slow)
    indices = [55, 3, 3, 17, 0]
    assert torch.equal(split.tensors(preprocess, indices), slow[indices])
    assert torch.equal(split.tensors(preprocess, slice(2, 9)), slow[2:9])
    assert split.tensors(preprocess, []).shape == (0, 3, 6, 6)
    cropped = Preprocess((6, 9), crop=2, channels="extremes", **STANDARD)
    assert split.tensors(cropped, [1]).shape == (1, 3, 2, 2)
    pixels = list(split.pixels(preprocess, [4, 5]))
    assert torch.equal(pixels[1], preprocess.pixels(split.picture(5)))


def test_subsets_are_stratified_seeded_and_nested(train):
    path, _ = train
    full = load_split(path)
    sizes = {n: load_split(path, n) for n in (1, 3, 8, 16, 32, 56, 1000)}
    assert [len(sizes[n]) for n in sizes] == [1, 3, 8, 16, 32, 56, 56]
    assert Counter(sizes[8].label_names) == {"a": 5, "b": 2, "c": 1}
    assert Counter(sizes[3].label_names) == {"a": 1, "b": 1, "c": 1}
    for small, large in ((1, 3), (3, 8), (8, 16), (16, 32), (32, 56)):
        assert set(sizes[small].image_ids) < set(sizes[large].image_ids)
    for split in sizes.values():
        assert split.image_ids == sorted(split.image_ids)
        assert split.classes == full.classes
    assert load_split(path, 8).image_ids == sizes[8].image_ids != load_split(path, 8, seed=1).image_ids
    preprocess = Preprocess(4, **STANDARD)
    places = [full.image_ids.index(image_id) for image_id in sizes[8].image_ids]
    assert torch.equal(sizes[8].tensors(preprocess), full.tensors(preprocess, places))


def test_order_of_the_file_does_not_matter(train, tmp_path):
    path, _ = train
    table = tables.read_table(path)
    tables.write_table(tmp_path / "shuffled.parquet", table.take(np.random.default_rng(0).permutation(len(table))), {})
    one, two = load_split(path, 9), load_split(tmp_path / "shuffled.parquet", 9)
    assert one.image_ids == two.image_ids and np.array_equal(one.labels, two.labels)
    preprocess = Preprocess(4, **STANDARD)
    assert torch.equal(one.tensors(preprocess), two.tensors(preprocess))


def test_deep_grey_is_shown_in_eight_bits(folder, settings, tmp_path):
    root = folder({"a": 3, "b": 3})
    for file in root.rglob("*.png"):
        Image.fromarray(np.full((4, 4), 257 * 7, dtype=np.uint16)).save(file)
    prepare("toy", settings(root), tmp_path / "out")
    picture = load_split(tmp_path / "out" / "test.parquet").picture(0)
    assert picture.mode == "L" and picture.getpixel((0, 0)) == 7


def changed(path, name, values):
    table = pq.read_table(path)
    place = table.schema.get_field_index(name)
    return table.set_column(place, name, pa.array(values(table[name].to_pylist()), table.schema.field(name).type))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("image_id", lambda v: [v[1], *v[1:]], "repeats the image_id a/"),
        ("image_id", lambda v: [None, *v[1:]], "repeats the image_id None"),
        ("label", lambda v: [label + 1 for label in v], "labels must be 0 to K-1"),
        ("label", lambda v: [None, *v[1:]], "labels must be 0 to K-1"),
        ("label_name", lambda v: ["other", *v[1:]], "labels must be 0 to K-1 with one name each"),
    ],
)
def test_inconsistent_tables(train, name, values, message):
    path, _ = train
    tables.write_table(path, changed(path, name, values), {})
    with pytest.raises(FggError, match=message) as error:
        load_split(path)
    assert str(path) in str(error.value) and "prepare" in str(error.value)


def test_missing_damaged_and_incomplete_files(train, tmp_path):
    path, _ = train
    with pytest.raises(FggError, match=r"none\.parquet does not exist"):
        load_split(tmp_path / "none.parquet")
    for name in ("image_id", "image", "label", "label_name"):
        tables.write_table(tmp_path / "less.parquet", pq.read_table(path).drop_columns([name]), {})
        with pytest.raises(FggError, match=rf"less\.parquet lacks the column {name};.*again"):
            load_split(tmp_path / "less.parquet")
    tables.write_table(tmp_path / "empty.parquet", pq.read_table(path).slice(0, 0), {})
    with pytest.raises(FggError, match=r"empty\.parquet has no images"):
        load_split(tmp_path / "empty.parquet")
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(FggError, match=r"cut\.parquet cannot be read"):
        load_split(cut)


def test_damage_that_only_the_images_show(train):
    path, _ = train
    split = load_split(path)
    table = changed(path, "image", lambda v: [{"bytes": None, "path": "x"}, {"bytes": b"no", "path": "y"}, *v[2:]])
    tables.write_table(path, table, {})
    with pytest.raises(FggError, match=r"image a/.* in .*train\.parquet has no bytes"):
        split.picture(0)
    with pytest.raises(FggError, match=r"image a/.* in .*train\.parquet cannot be used: not an image"):
        split.picture(1)
    path.unlink()
    with pytest.raises(FggError, match=r"train\.parquet cannot be read"):
        split.picture(2)


def test_settings_of_the_split_stay_readable(train):
    path, _ = train
    assert json.loads(pq.read_schema(path).metadata[b"fgg"])["settings"]["dataset"] == "toy"
    assert b"huggingface" in pq.read_schema(path).metadata
