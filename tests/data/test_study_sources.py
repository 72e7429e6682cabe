"""The sources of the three studies: how folders, tables and shards become records."""

import csv
import io
import json

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest

from fgg import tables
from fgg.data.load import load_split
from fgg.data.prepare import prepare
from fgg.data.sources import downloaded, records
from fgg.data.sources.hyperkvasir import FINDINGS, split_names
from fgg.data.sources.registry import open_source
from fgg.errors import FggError

NAMES = ["tench, Tinca tinca", "crane", "African elephant"]


def opened(name, path):
    return open_source({"source": name, "path": str(path)})


# ---- HyperKvasir


def kvasir(root, picture, counts, change=lambda lines: lines):
    """DIR/labeled-images with its CSV; counts: finding -> number of images."""
    base = root / "top" / "labeled-images"
    lines = [["Video file", "Organ", "Finding", "Classification"]]
    for finding, count in counts.items():
        place = base / "tract" / "anatomical-landmarks" / finding
        place.mkdir(parents=True)
        for number in range(count):
            name = f"{finding}-{number}"
            picture(name).save(place / f"{name}.jpg")
            lines.append([name, "Lower GI", finding, "anatomical-landmarks"])
    lines.append(["polyp", "Lower GI", "polyps", "pathological-findings"])
    with (base / "image-labels.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(change(lines))
    return root


@pytest.mark.parametrize("count", [20, 59, 4104])
def test_the_split_is_that_of_ssl4gie(count):
    """As its authors' code has it, by indices from linspace, test first; and disjoint, and complete."""
    from sklearn.model_selection import train_test_split

    size = round((10 / 100) * count)
    indices = np.linspace(0, count - 1, count).astype("int")
    train, test = train_test_split(indices, test_size=size, random_state=42)
    train, val = train_test_split(train, test_size=size, random_state=42)
    found = np.array(split_names(count))
    assert set(np.flatnonzero(found == "test")) == set(test)
    assert set(np.flatnonzero(found == "val")) == set(val)
    assert set(np.flatnonzero(found == "train")) == set(train)
    assert (found == "test").sum() == (found == "val").sum() == size


def test_landmarks_in_the_order_of_the_table(tmp_path, picture):
    root = kvasir(tmp_path, picture, dict.fromkeys(reversed(FINDINGS), 4))
    own = opened("hyperkvasir", root)
    assert own.classes == ["cecum", "ileum", "retroflex-rectum", "pylorus", "retroflex-stomach", "z-line"]
    assert [record.label_name for record in own.records] == [f for f in reversed(FINDINGS) for _ in range(4)]
    assert [record.split for record in own.records] == split_names(24)
    first = own.records[0]
    assert (first.image_id, first.path) == ("z-line-0", "tract/anatomical-landmarks/z-line/z-line-0.jpg")
    assert "polyp" not in {record.image_id for record in own.records}


def test_a_rare_class_may_be_missing_in_a_split_and_keeps_its_number(tmp_path, picture):
    counts = dict.fromkeys(FINDINGS, 12) | {"ileum": 1}
    root = kvasir(tmp_path, picture, counts)
    own = {"source": "hyperkvasir", "path": str(root), "max_skipped": 0.0, "seed": 0}
    own["fractions"] = {"train": 0.7, "val": 0.15, "test": 0.15}
    record = prepare("it", own, tmp_path / "out")
    lacking = [split for split in ("train", "val", "test") if not record["counts"][split]["ileum"]]
    assert len(lacking) == 2
    for split in ("train", "val", "test"):
        loaded = load_split(tmp_path / "out" / f"{split}.parquet")
        assert loaded.classes == list(FINDINGS)
        assert [FINDINGS[label] for label in loaded.labels] == loaded.label_names


def test_missing_files_do_not_move_the_split(tmp_path, picture):
    root = kvasir(tmp_path, picture, dict.fromkeys(FINDINGS, 5))
    before = {record.image_id: record.split for record in opened("hyperkvasir", root).records}
    next(root.rglob("pylorus-3.jpg")).unlink()
    after = opened("hyperkvasir", root)
    assert {record.image_id: record.split for record in after.records} == before
    (gone,) = [record for record in after.records if not record.file.exists()]
    assert gone.path == "pylorus-3.jpg"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [["a", "b"], *lines[1:]], "has the columns .*expected .*'Video file'"),
        (lambda lines: lines[:3], "has 2 rows with an anatomical landmark"),
    ],
)
def test_other_tables_are_refused(tmp_path, picture, change, said):
    with pytest.raises(FggError, match=said):
        opened("hyperkvasir", kvasir(tmp_path, picture, dict.fromkeys(FINDINGS, 2), change))


def test_two_files_for_one_row_and_no_table(tmp_path, picture):
    root = kvasir(tmp_path / "a", picture, dict.fromkeys(FINDINGS, 2))
    picture().save(root / "top" / "labeled-images" / "cecum-0.png")
    with pytest.raises(FggError, match="two files for cecum-0"):
        opened("hyperkvasir", root)
    (tmp_path / "b").mkdir()
    with pytest.raises(FggError, match=r"holds no image-labels\.csv"):
        opened("hyperkvasir", tmp_path / "b")
    with pytest.raises(FggError, match="does not exist; leave out `path`"):
        opened("hyperkvasir", tmp_path / "c")


# ---- COVID-QU-Ex


def test_lungs_without_masks(tmp_path, picture):
    for split in ("Train", "Val", "Test"):
        for label in ("COVID-19", "Non-COVID", "Normal"):
            for folder in ("images", "lung masks"):
                place = tmp_path / "Lung Segmentation Data" / split / label / folder
                place.mkdir(parents=True)
                picture().save(place / f"{label}-{split}.png")
    (tmp_path / "Lung Segmentation Data/Val/Normal/images/notes.txt").write_text("x")
    own = opened("covidquex", tmp_path)
    assert len(own.records) == 9 and own.classes == ["COVID-19", "Non-COVID", "Normal"]
    assert [(r.image_id, r.split) for r in own.records if r.label_name == "Normal"] == [
        ("train/Normal/Normal-Train", "train"),
        ("val/Normal/Normal-Val", "val"),
        ("test/Normal/Normal-Test", "test"),
    ]
    assert own.skipped == [{"path": "Val/Normal/images/notes.txt", "reason": "not an image file"}]
    (tmp_path / "Lung Segmentation Data/Test/Normal/images").rename(tmp_path / "away")
    with pytest.raises(FggError, match="Test/Normal/images does not exist"):
        opened("covidquex", tmp_path)


# ---- ImageNet


@pytest.fixture
def shard(tmp_path, picture, encode):
    """A function: name, labels -> a shard as `datasets` writes it, in row groups of three."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})

    def make(name, labels, features=features):
        path = tmp_path / "data" / name
        path.parent.mkdir(exist_ok=True)
        images = [{"bytes": encode(picture(f"{name}{i}")), "path": f"{i}.JPEG"} for i in range(len(labels))]
        table = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        buffer = io.BytesIO()
        table.to_parquet(buffer, batch_size=3)
        path.write_bytes(buffer.getvalue())
        return path

    return make


def test_rows_of_shards(tmp_path, shard, picture, encode):
    first = shard("validation-00000-of-00002.parquet", [0, 1, 2, 0, 1, 2, 0])
    shard("validation-00001-of-00002.parquet", [1, 1, 2])
    assert pq.ParquetFile(first).num_row_groups == 3
    own = opened("imagenet", tmp_path)
    assert own.classes == NAMES and len(own.records) == 10 and own.skipped == []
    record = own.records[5]
    assert (record.image_id, record.label_name, record.split) == ("validation-00000/00005", NAMES[2], None)
    assert record.path == "data/validation-00000-of-00002.parquet/5.JPEG"
    for place, record in enumerate(own.records[:7]):
        assert record.data == encode(picture(f"validation-00000-of-00002.parquet{place}"))


def test_one_row_group_at_a_time_is_held(tmp_path, shard, monkeypatch):
    shard("validation-00000-of-00001.parquet", [0, 1, 2] * 3)
    own = opened("imagenet", tmp_path)
    read, real = [], records._group.__wrapped__
    records._group.cache_clear()
    counted = records.functools.lru_cache(maxsize=1)(lambda path, group: (read.append(group), real(path, group))[1])
    monkeypatch.setattr(records, "_group", counted)
    for record in own.records:
        assert record.data
    assert read == [0, 1, 2]


def test_images_without_a_label_are_counted_and_named(tmp_path, shard):
    shard("test-00000-of-00001.parquet", [-1] * 4)
    shard("validation-00000-of-00001.parquet", [0, 1, 2] * 8 + [-1])
    own = {"source": "imagenet", "path": str(tmp_path), "max_skipped": 0.0, "seed": 0}
    own["fractions"] = {"train": 0.25, "val": 0.25, "test": 0.5}
    record = prepare("it", own, tmp_path / "out")
    assert record["skipped"] == [
        {"path": "data/test-00000-of-00001.parquet", "reason": "none of its 4 images has a label", "images": 4},
        {"path": "data/validation-00000-of-00001.parquet, row 24", "reason": "no label"},
    ]
    assert (record["n_read"], record["n_skipped"], record["classes"]) == (24, 5, NAMES)
    assert record["counts"]["test"] == dict.fromkeys(NAMES, 4)
    table = tables.read_table(tmp_path / "out" / "val.parquet").to_pydict()
    assert [NAMES[label] for label in table["label"]] == table["label_name"]


def test_shards_of_all_splits_are_the_splits_and_training_alone_is_left_aside(tmp_path, shard):
    shard("train-00000-of-00001.parquet", [0, 1])
    shard("validation-00000-of-00001.parquet", [0, 1, 2])
    own = opened("imagenet", tmp_path)
    assert {record.split for record in own.records} == {None} and len(own.records) == 3
    assert own.skipped == [
        {
            "path": "data/train-00000-of-00001.parquet",
            "reason": "part of the training split; only the other splits are used",
        }
    ]
    shard("test-00000-of-00001.parquet", [2, 2])
    assert [record.split for record in opened("imagenet", tmp_path).records] == ["test"] * 2 + ["train"] * 2 + [
        "val"
    ] * 3


def test_names_of_classes_from_the_readme(tmp_path, shard):
    plain = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    shard("validation-00000-of-00001.parquet", [0, 2], plain)
    with pytest.raises(FggError, match=r"row 0 has the label 0, but no class names .* fetch README\.md"):
        opened("imagenet", tmp_path)
    names = "\n".join(f"          '{i}': {json.dumps(name)}" for i, name in enumerate(NAMES))
    (tmp_path / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n"
        f"      class_label:\n        names:\n{names}\n---\n# ImageNet\n"
    )
    assert [record.label_name for record in opened("imagenet", tmp_path).records] == [NAMES[0], NAMES[2]]


def test_shards_that_cannot_be_used(tmp_path, shard):
    with pytest.raises(FggError, match=r"holds no \*\.parquet"):
        opened("imagenet", tmp_path)
    path = shard("validation-00000-of-00001.parquet", [0, 1])
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    with pytest.raises(FggError, match="cannot be read"):
        opened("imagenet", tmp_path)
    tables.write_table(path, {"x": [1]}, {})
    with pytest.raises(FggError, match="has the columns"):
        opened("imagenet", tmp_path)


def test_what_the_download_noted_is_told(tmp_path, shard):
    shard("validation-00000-of-00001.parquet", [0, 1])
    note = {"revision": None, "address": "https://x", "citation": "me", "licence": "free", "tree": "0" * 64}
    (tmp_path / "contents.json").write_text(json.dumps(note))
    own = opened("imagenet", tmp_path)
    assert (own.version, own.citation, own.licence, own.checksum) == ("https://x", "me", "free", "0" * 64)
    assert downloaded.DOWNLOADS == "data/downloads"
