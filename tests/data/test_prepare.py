"""Preparing: the files' content, stable splits, unreadable images, the command line."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFile

from fgg import tables
from fgg.data import prepare as module
from fgg.data.prepare import main, prepare
from fgg.errors import FggError

ROOT = Path(__file__).parents[2]
SPLITS = ("train", "val", "test")


def ids(output):
    return {split: tables.read_table(output / f"{split}.parquet")["image_id"].to_pylist() for split in SPLITS}


def test_files_hold_the_original_bytes_and_say_what_made_them(folder, settings, tmp_path):
    root, output = folder({"b": 10, "a": 10}), tmp_path / "out"
    own = settings(root)
    record = prepare("toy", own, output)
    assert record["classes"] == ["a", "b"]
    assert record["counts"] == {"train": {"a": 7, "b": 7}, "val": {"a": 2, "b": 2}, "test": {"a": 1, "b": 1}}
    assert (record["n_read"], record["n_skipped"], record["skipped"]) == (20, 0, [])
    rows = [row for split in SPLITS for row in tables.read_table(output / f"{split}.parquet").to_pylist()]
    for row in rows:
        assert row["image"]["bytes"] == (root / row["image"]["path"]).read_bytes()
        assert row["label_name"] == row["image_id"].split("/")[0] == record["classes"][row["label"]]
    digest = hashlib.sha256()
    for row in sorted(rows, key=lambda row: row["image_id"]):
        line = json.dumps([row["image_id"], row["label"], hashlib.sha256(row["image"]["bytes"]).hexdigest()])
        digest.update(line.encode() + b"\n")
    assert record["checksum"] == digest.hexdigest()
    assert tables.read_settings(output / "val.parquet") == {"dataset": "toy", **own}
    written = tables.read_json(output / "dataset.json")
    assert written.pop("fgg") == {"schema": tables.SCHEMA_VERSION, "settings": {"dataset": "toy", **own}}
    assert written == record
    assert all(own == sorted(own) for own in ids(output).values())


def test_hugging_face_datasets_reads_the_files(folder, settings, tmp_path):
    root = folder({"a": 5, "b": 5})
    prepare("toy", settings(root), tmp_path / "out")
    files = {split: str(tmp_path / "out" / f"{split}.parquet") for split in SPLITS}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded["train"].features["image"], datasets.Image)
    for row in loaded["train"]:
        assert np.array_equal(np.asarray(row["image"]), np.asarray(Image.open(root / f"{row['image_id']}.png")))
    one = datasets.Dataset.from_parquet(files["test"], cache_dir=str(tmp_path / "cache2"))
    assert one[0]["image"].size == (16, 12)


def test_two_runs_write_the_same_bytes_in_small_groups(folder, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GROUP_ROWS", 3)
    root = folder({"a": 8, "b": 8})
    for name in ("one", "two"):
        prepare("toy", settings(root), tmp_path / name)
    for name in ("train.parquet", "val.parquet", "test.parquet", "dataset.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert pq.ParquetFile(tmp_path / "one" / "train.parquet").num_row_groups == 4
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == [
        "dataset.json",
        "test.parquet",
        "train.parquet",
        "val.parquet",
    ]


def test_split_depends_on_seed_and_ids_alone(folder, settings, tmp_path, monkeypatch):
    root = folder({"a": 20, "b": 20})
    prepare("toy", settings(root), tmp_path / "plain")
    opened = module.open_source

    def reversed_source(own):
        found = opened(own)
        found.records.reverse()
        return found

    monkeypatch.setattr(module, "open_source", reversed_source)
    prepare("toy", settings(root), tmp_path / "reversed")
    prepare("toy", settings(root, seed=1), tmp_path / "seed1")
    for name in ("train.parquet", "val.parquet", "test.parquet", "dataset.json"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "reversed" / name).read_bytes()
    assert ids(tmp_path / "plain") != ids(tmp_path / "seed1")
    every = [image_id for own in ids(tmp_path / "plain").values() for image_id in own]
    assert len(every) == len(set(every)) == 40


def test_own_splits_are_kept(folder, settings, tmp_path):
    prepare("toy", settings(folder({f"{s}/{c}": 2 for s in SPLITS for c in "ab"})), tmp_path / "out")
    assert ids(tmp_path / "out") == {s: [f"{s}/{c}/{i:03}" for c in "ab" for i in (0, 1)] for s in SPLITS}


def test_unreadable_images_are_listed_with_their_reason(folder, settings, tmp_path):
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    root = folder({"a": 10, "b": 10})
    cut = root / "a" / "003.png"
    cut.write_bytes(cut.read_bytes()[:200])
    (root / "a" / "004.png").write_bytes(b"")
    (root / "b" / "005.png").write_text("text")
    (root / "b" / "gone.png").symlink_to("nowhere")
    (root / "b" / "notes.txt").write_text("does not count against max_skipped")
    record = prepare("toy", settings(root, max_skipped=0.2), tmp_path / "out")
    reasons = {entry["path"]: entry["reason"] for entry in record["skipped"]}
    assert sorted(reasons) == ["a/003.png", "a/004.png", "b/005.png", "b/gone.png", "b/notes.txt"]
    assert "truncated" in reasons["a/003.png"] and "empty" in reasons["a/004.png"]
    assert "not an image" in reasons["b/005.png"] and "No such file" in reasons["b/gone.png"]
    assert (record["n_read"], record["n_unreadable"], record["n_skipped"]) == (17, 4, 5)
    with pytest.raises(FggError, match=r"4 of 21 images of toy \(19\.05%\)") as error:
        prepare("toy", settings(root, max_skipped=0.19), tmp_path / "out")
    for part in ("a/003.png", "a/004.png", "b/005.png", "raise `max_skipped`", "0.1905"):
        assert part in str(error.value)


def test_every_class_must_reach_every_split(folder, settings, tmp_path):
    root = folder({"a": 5, "b": 2})
    with pytest.raises(FggError, match="split val of") as error:
        prepare("toy", settings(root), tmp_path / "out")
    assert str(root) in str(error.value) and "class b" in str(error.value) and "add images" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": 1}, "unknown .*extra"),
        ({"fractions": {"train": 0.5, "val": 0.5}}, "add up to 1"),
        ({"fractions": {"train": 0.5, "val": 0.5, "test": 0.5}}, "add up to 1"),
        ({"source": "web"}, "'web' is unknown"),
    ],
)
def test_faulty_settings(settings, tmp_path, changes, message):
    with pytest.raises(FggError, match=message):
        prepare("toy", settings(tmp_path, **changes), tmp_path / "out")


def test_repeated_ids_are_refused(folder, settings, tmp_path, monkeypatch):
    opened = module.open_source

    def doubled(own):
        found = opened(own)
        found.records.extend(found.records[:1])
        return found

    monkeypatch.setattr(module, "open_source", doubled)
    with pytest.raises(FggError, match=r"unique.*a/000.*rename"):
        prepare("toy", settings(folder({"a": 3, "b": 3})), tmp_path / "out")


def test_a_file_that_changes_meanwhile_is_noticed(folder, settings, tmp_path, monkeypatch):
    root = folder({"a": 3, "b": 3})
    check = module._check_share

    def change(*arguments):
        check(*arguments)
        (root / "a" / "000.png").write_bytes(b"other")

    monkeypatch.setattr(module, "_check_share", change)
    with pytest.raises(FggError, match=r"000\.png changed .* run the same command again"):
        prepare("toy", settings(root), tmp_path / "out")


def test_command_prints_what_there_is(folder, settings, tmp_path, capsys):
    arguments = ["--dataset", "toy", "--output", str(tmp_path / "out"), "--settings"]
    assert main([*arguments, json.dumps(settings(folder({"a": 4, "b": 4})))]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "toy: 8 images (train 4, val 2, test 2), 0 files skipped"
    for text in ("{", "[]"):
        with pytest.raises(SystemExit):
            main([*arguments, text])
        assert "is not a JSON object" in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["no images", "truncated"])
def test_command_line_faults_are_one_message(folder, settings, tmp_path, fault):
    root = folder({"a": 0, "b": 0} if fault == "no images" else {"a": 3, "b": 3})
    if fault == "truncated":
        file = root / "a" / "000.png"
        file.write_bytes(file.read_bytes()[:-40])
    arguments = ["--dataset", "toy", "--settings", json.dumps(settings(root)), "--output", str(tmp_path / "out")]
    command = [sys.executable, "-m", "fgg.data.prepare", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr
    assert ("has no images" if fault == "no images" else "a/000.png") in done.stderr
    assert not (tmp_path / "out").exists()
