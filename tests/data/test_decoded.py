"""Decoded images that jobs share: the same tensors, each image decoded once, and no trust in what is cut off."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from fgg.checksums import SHARED
from fgg.data import decoded, load
from fgg.data.load import load_split
from fgg.data.prepare import prepare
from fgg.data.preprocess import Preprocess
from fgg.errors import FggError

SETTINGS = Preprocess(size=20, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """The folder that jobs share, however full the disk is."""
    monkeypatch.setattr(decoded, "LEAST_FREE", 0)
    monkeypatch.setenv(SHARED, str(tmp_path / "shared"))
    return tmp_path / "shared"


@pytest.fixture
def decodings(monkeypatch):
    """The places in the file of the images that are decoded."""
    seen, own = [], load._decode
    monkeypatch.setattr(
        load, "_decode", lambda path, row, column: seen.append(row["image_id"]) or own(path, row, column)
    )
    return seen


@pytest.fixture
def split(folder, settings, tmp_path):
    prepare("toy", settings(folder({"a": 12, "b": 6})), tmp_path / "out")
    return load_split(tmp_path / "out" / "train.parquet")


def kept(shared):
    return sorted((shared / "pixels").iterdir())


@pytest.mark.parametrize(
    "made", [SETTINGS, Preprocess(size=(16, 24), channels="dark_lines", mean=(0,) * 3, std=(1,) * 3)]
)
def test_the_second_job_decodes_nothing_and_gets_the_same_tensors(split, shared, decodings, made, monkeypatch):
    first, pixels = split.tensors(made), split.pixels(made)
    assert sorted(decodings) == split.image_ids
    decodings.clear()
    assert torch.equal(load_split(split.path).tensors(made), first) and not decodings
    monkeypatch.delenv(SHARED)
    assert torch.equal(split.tensors(made), first) and torch.equal(split.pixels(made), pixels)
    assert len(decodings) == 2 * len(split)


def test_only_what_is_missing_is_decoded(split, shared, decodings):
    split.tensors(SETTINGS, slice(0, 3))
    places = [5, 1, 0, 4]
    decodings.clear()
    found = split.tensors(SETTINGS, places)
    assert sorted(decodings) == [split.image_ids[4], split.image_ids[5]]
    assert torch.equal(found, split.tensors(SETTINGS)[places])


def test_mean_and_std_need_no_pixels_of_their_own(split, shared, decodings):
    split.pixels(SETTINGS)
    decodings.clear()
    other = Preprocess(size=20, mean=(0, 0, 0), std=(2, 2, 2))
    assert torch.equal(split.tensors(other), split.pixels(other) / 2) and not decodings


@pytest.mark.parametrize("change", ["size", "channels", "file", "content", "code"])
def test_pixels_of_other_settings_files_or_code_are_not_used(split, shared, decodings, change, monkeypatch):
    split.tensors(SETTINGS)
    decodings.clear()
    settings = SETTINGS
    if change == "size":
        settings = Preprocess(size=21, mean=(0,) * 3, std=(1,) * 3)
    if change == "channels":
        settings = Preprocess(size=20, channels="extremes", mean=(0,) * 3, std=(1,) * 3)
    if change == "file":
        os.utime(split.path, ns=(1, 1))
    if change == "content":  # with the time and the size of before
        facts = split.path.stat()
        split.path.write_bytes(split.path.read_bytes())
        os.utime(split.path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    if change == "code":
        monkeypatch.setattr(decoded, "_makers", lambda: ["another version"])
    split.tensors(settings)
    assert len(decodings) == len(split)


@pytest.mark.parametrize("damage", ["cut off", "other pixels", "no mark", "empty"])
def test_what_is_damaged_is_decoded_again(split, shared, decodings, damage):
    expected = split.tensors(SETTINGS)
    (file,) = kept(shared)
    content = bytearray(file.read_bytes())
    if damage == "other pixels":
        content[100] ^= 1
    if damage == "no mark":
        content[3 * 20 * 20 * 4] ^= 1
    if damage == "cut off":
        del content[-2:]
    if damage == "empty":
        content.clear()
    file.write_bytes(content)
    decodings.clear()
    assert torch.equal(split.tensors(SETTINGS), expected)
    assert len(decodings) == (len(split) if damage == "empty" else 1)
    decodings.clear()
    assert torch.equal(split.tensors(SETTINGS), expected) and not decodings


def test_threads_share_the_file(split, shared, decodings):
    expected = split.tensors(SETTINGS, threads=4)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: split.tensors(SETTINGS, threads=2), range(4)))
    assert all(torch.equal(one, expected) for one in found) and len(decodings) == len(split)


@pytest.mark.parametrize("fault", ["no space", "little space", "limit", "far", "no folder", "unreadable", "pipe"])
def test_what_cannot_be_kept_is_decoded_by_each_job(split, shared, decodings, fault, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    if fault == "no space":
        monkeypatch.setattr(os, "pwrite", full)
    if fault == "unreadable":
        monkeypatch.setattr(os, "pread", full)
    if fault == "pipe":
        (shared / "pixels").mkdir(parents=True)
        os.mkfifo(shared / "pixels" / decoded._key(split.path, SETTINGS))
    if fault == "little space":
        monkeypatch.setattr(decoded, "LEAST_FREE", 2**60)
    if fault == "limit":
        monkeypatch.setattr(decoded, "MOST_BYTES", 1000)
    if fault == "far":
        monkeypatch.setattr(decoded, "FARTHEST", -1)
    if fault == "no folder":
        shared.write_text("a file")
    first = split.tensors(SETTINGS)
    assert torch.equal(split.tensors(SETTINGS), first) and len(decodings) == 2 * len(split)
    assert fault in ("no folder", "unreadable") or sum(file.stat().st_size for file in kept(shared)) == 0


def test_an_image_that_is_damaged_is_still_named(split, shared, monkeypatch):
    monkeypatch.setattr(
        load, "decode", lambda data, name: (_ for _ in ()).throw(FggError(f"image {name} cannot be used"))
    )
    with pytest.raises(FggError, match=split.image_ids[0]):
        split.tensors(SETTINGS)


def test_a_library_without_metadata_is_no_error(split, shared, monkeypatch):
    decoded._makers.cache_clear()
    monkeypatch.setattr(decoded, "MAKERS", ("a library that is not installed",))
    split.tensors(SETTINGS)
    assert "unknown" in decoded._makers()
    decoded._makers.cache_clear()


def test_no_file_is_left_open(split, shared):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        split.tensors(SETTINGS)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert np.isfinite(split.tensors(SETTINGS)).all()
