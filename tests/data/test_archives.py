"""Archives from elsewhere: what is unpacked, and what is refused without leaving anything."""

import gzip
import io
import os
import stat
import tarfile
import zipfile

import pytest

from fgg.data import archives
from fgg.data.archives import unpack
from fgg.errors import FggError


def make_zip(path, members, change=lambda info: None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            change(info)
            archive.writestr(info, data)
    return path


def make_tar(path, members, mode="w:gz"):
    """Members: name -> bytes, or -> (type, link's target)."""
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(data, tuple):
                info.type, info.linkname = data
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


def refused(archive, tmp_path, reason):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FggError, match=reason) as error:
        unpack(archive, tmp_path / "out")
    assert archive.name in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is left, and nothing was written elsewhere"


@pytest.mark.parametrize("form", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_files_and_folders(tmp_path, form):
    members = {"a/b/c.txt": b"one", "a/ünï çode.txt": b"two", "./d.txt": b"", "big.bin": os.urandom(3 * archives.CHUNK)}
    archive = tmp_path / "archive"
    make_zip(archive, members | {"empty/": b""}) if form == "zip" else make_tar(archive, members, form)
    assert unpack(archive, tmp_path / "out") == (4, 6 + 3 * archives.CHUNK)
    for name, data in members.items():
        assert (tmp_path / "out" / name).read_bytes() == data
    assert (tmp_path / "out/empty").is_dir() == (form == "zip")


OUTSIDE = ["../x", "/x", "a/../../x", "a\\..\\x", "C:/x", "C:x"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_paths_out_of_the_folder(tmp_path, name, form):
    make = make_zip if form == "zip" else make_tar
    refused(make(tmp_path / "archive", {"fine": b"1", name: b"2"}), tmp_path, "is a path outside the folder")


KINDS = {
    "symbolic link": (tarfile.SYMTYPE, "fine"),
    "symbolic link out": (tarfile.SYMTYPE, "../.."),
    "hard link": (tarfile.LNKTYPE, "fine"),
    "hard link out": (tarfile.LNKTYPE, "../../etc/passwd"),
    "character device": (tarfile.CHRTYPE, ""),
    "block device": (tarfile.BLKTYPE, ""),
    "pipe": (tarfile.FIFOTYPE, ""),
}


@pytest.mark.parametrize("kind", KINDS)
def test_links_and_devices_in_a_tar(tmp_path, kind):
    refused(make_tar(tmp_path / "archive", {"fine": b"1", "x": KINDS[kind]}), tmp_path, "'x' is a link or a device")


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_in_a_zip(tmp_path, mode):
    def change(info):
        info.external_attr = (mode | 0o777) << 16

    refused(make_zip(tmp_path / "archive", {"x": b"/etc"}, change), tmp_path, "'x' is a link or a device")


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_a_bomb(tmp_path, monkeypatch, form):
    """Forty megabytes of zeros in forty kilobytes."""
    monkeypatch.setattr(archives, "LEAST_ALLOWED", 2**20)
    make = make_zip if form == "zip" else make_tar
    archive = make(tmp_path / "archive", {f"{i}": bytes(2**22) for i in range(10)})
    assert archive.stat().st_size < 2**16
    refused(archive, tmp_path, "unpacked, it is larger than 1,048,576 bytes")


def test_a_zip_that_lies_about_its_size(tmp_path):
    archive = make_zip(tmp_path / "archive", {"x": bytes(2**22)})
    data = bytearray(archive.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = data.index(mark) + offset
        data[place : place + 4] = (10).to_bytes(4, "little")
    archive.write_bytes(data)
    refused(archive, tmp_path, "damaged|larger")


def test_too_many_files_and_too_little_disk(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "archive", {f"{i}": b"xy" for i in range(5)})
    monkeypatch.setattr(archives, "MOST_FILES", 4)
    refused(archive, tmp_path, "more than 4 files")
    monkeypatch.setattr(archives, "MOST_FILES", 5)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 9}))
    refused(archive, tmp_path, "does not fit on the disk, which had 9 bytes free")


def test_the_same_name_twice_and_a_file_as_folder(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("x", b"1")
        archive.writestr("x", b"2")
    refused(tmp_path / "archive", tmp_path, "it contains a file twice")
    refused(
        make_tar(tmp_path / "archive", {"x": b"1", "x/y": b"2"}), tmp_path, "or a file and a folder of the same name"
    )


@pytest.mark.parametrize("form", ["zip", "tar", "cut off"])
def test_damaged_archives(tmp_path, form):
    archive = tmp_path / "archive"
    make = make_zip if form == "zip" else make_tar
    data = make(archive, {"x": os.urandom(2**16), "y": os.urandom(2**16)}).read_bytes()
    if form == "cut off":
        archive.write_bytes(data[: len(data) // 2])
        refused(archive, tmp_path, "damaged")
        return
    for place in range(len(data) // 4, len(data) * 3 // 4, 9973):  # noise is packed as it is: only a checksum tells
        archive.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        refused(archive, tmp_path, "damaged")


def test_a_tar_whose_end_has_no_end(tmp_path, monkeypatch):
    archive = make_tar(tmp_path / "archive", {"x": b"1"}, "w")
    packed = gzip.compress(archive.read_bytes() + bytes(3 * 2**20))
    archive.write_bytes(packed)
    assert unpack(archive, tmp_path / "fine") == (1, 1)
    monkeypatch.setattr(archives, "LEAST_ALLOWED", 2**20)
    refused(archive, tmp_path, "the data after its last file does not end")


def test_what_is_no_archive(tmp_path):
    archive = tmp_path / "archive"
    for data, said in (
        (b"<!DOCTYPE html>", "it is a web page"),
        (b"text", "neither a zip nor a tar"),
        (b"", "neither"),
    ):
        archive.write_bytes(data)
        refused(archive, tmp_path, said)
    archive.write_bytes(gzip.compress(b"no tar"))
    refused(archive, tmp_path, "neither")


def test_an_encrypted_zip(tmp_path):
    archive = make_zip(tmp_path / "archive", {"x": b"secret"})
    data = bytearray(archive.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    archive.write_bytes(data)
    refused(archive, tmp_path, "'x' is encrypted")
