"""Hashes of the user's files: content and names count, dates and the order on the disk do not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

import pytest

from fgg.pipeline import content
from fgg.pipeline.content import content_hash


@pytest.fixture(autouse=True)
def pictures(tmp_path, monkeypatch):
    """A folder with two classes, in a working folder; no hashes are known."""
    monkeypatch.chdir(tmp_path)
    content._cache.cache_clear()
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / name).write_text(name)
    return tmp_path / "pictures"


def now() -> str:
    return content_hash(["pictures"])


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "a/3.png").write_text("new"),
        lambda folder: (folder / "a/1.png").write_text("b/1.png"),  # as long as before
        lambda folder: (folder / "a/1.png").rename(folder / "a/0.png"),
        lambda folder: (folder / "a/1.png").unlink(),
        lambda folder: (folder / "a/1.png").rename(folder / "b/2.png"),
    ],
    ids=["new", "changed", "renamed", "deleted", "of another class"],
)
def test_what_changes_the_images_changes_the_hash(pictures, change):
    before = now()
    change(pictures)
    assert now() != before


def test_a_change_with_an_old_date_is_noticed(pictures):
    before, dates = now(), (pictures / "a/1.png").stat()
    (pictures / "a/1.png").write_text("b/1.png")
    os.utime(pictures / "a/1.png", ns=(dates.st_atime_ns, dates.st_mtime_ns))
    assert now() != before


def test_dates_and_places_do_not_count(pictures):
    before = now()
    (pictures / "a/1.png").touch()
    assert now() == before
    shutil.copytree(pictures, "copy")
    assert content_hash(["copy"]) == before
    shutil.rmtree(pictures)
    for name in ("b/1.png", "a/2.png", "a/1.png"):  # in another order
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        (pictures / name).write_text(name)
    assert now() == before


def test_files_and_folders_that_do_not_exist(pictures):
    assert content_hash([]) == content_hash(["absent"]) == ""
    assert content_hash(["pictures/a/1.png"]) != content_hash(["pictures/a/2.png"]) != ""


def test_hashes_are_kept_and_a_damaged_list_is_read_anew(pictures, tmp_path):
    (tmp_path / ".snakemake").mkdir()
    before = now()
    content._write(content.CACHE, content._cache())
    for text in (content.CACHE.read_text(), "{", "[1]", '{"x": 1}'):
        content.CACHE.write_text(text)
        content._cache.cache_clear()
        assert now() == before


def test_kept_hashes_are_used(pictures, monkeypatch):
    before = now()
    monkeypatch.setattr(content, "digest", lambda path: pytest.fail("read again"))
    assert now() == before


def test_links(pictures, tmp_path):
    before = now()
    (pictures / "a" / "again").symlink_to(pictures / "a")  # a loop
    assert now() == before
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "1.png").write_text("more")
    (pictures / "c").symlink_to(tmp_path / "more")
    assert now() != before


def test_the_hash_is_that_of_all_names_and_contents(pictures):
    (pictures / "gone.png").symlink_to(pictures / "nowhere")
    os.mkfifo(pictures / "pipe")
    files = sorted(path for path in pictures.rglob("*") if path.is_file())
    facts = [[path.relative_to(pictures).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()] for path in files]
    assert now() == hashlib.sha256(json.dumps([facts]).encode()).hexdigest()[:12]


def test_a_file_that_cannot_be_read_is_left_to_its_job(pictures, monkeypatch):
    def refuse(path):
        raise PermissionError

    monkeypatch.setattr(content, "digest", refuse)
    assert now()
