"""Servers and tables that would put files elsewhere, or never end."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hostile import at_most, refused
from server import Server

from fgg.data import transfer
from fgg.data.download import download, find_row
from fgg.data.hub import parse
from fgg.data.locations import Row, local
from fgg.errors import FggError


@pytest.fixture
def server(monkeypatch):
    """A server that is also the hub, and no waiting between attempts."""
    import huggingface_hub.constants

    monkeypatch.setattr(transfer, "BACKOFF", 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as own:
        monkeypatch.setenv("HF_ENDPOINT", own.url)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        yield own


def row(server: Server, **changes: str) -> Row:
    return Row(**{"name": "it", "kind": "http", "address": f"{server.url}/x", "files": "x"} | changes)


OUTSIDE = ["../evil.pt", "a/../../evil.pt", "/evil.pt", "..", "a/..", "..\\evil.pt", "/etc/cron.d/evil"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_hub_that_names_files_elsewhere(server, tmp_path, path):
    server.hub["o/r"] = {"config.json": b"{}", path: b"evil"}
    own = Row("hub/o/r", "hub", "o/r", "config.json * */* */*/*")
    folder = tmp_path / "downloads"
    with pytest.raises(FggError, match="names a file outside its folder"):
        download(own, folder)
    assert not list(tmp_path.rglob("*evil*"))
    assert {found.name for found in tmp_path.iterdir()} <= {"downloads"}


@pytest.mark.parametrize("name", ["..", "../evil", "ABSOLUTE", "a/../../evil", "", "."])
@pytest.mark.parametrize("key", ["name", "files"])
def test_a_row_that_lies_elsewhere(server, tmp_path, key, name):
    server.files["/x"] = b"1"
    folder = tmp_path / "downloads"
    folder.mkdir()
    name = name.replace("ABSOLUTE", str(tmp_path / "evil"))
    with refused("outside the folder of downloads", around=tmp_path):
        download(row(server, **{key: name}), folder)


@pytest.mark.parametrize("name", ["hub/../..", "hub/a/..", "hub/../a", "hub/a/b/../../..", "hub//", "hub/a"])
def test_a_repository_that_lies_elsewhere(tmp_path, name):
    (tmp_path / "downloads").mkdir()
    with refused("outside the folder of downloads|not a repository", around=tmp_path):
        download(find_row(name, ["*"], None), tmp_path / "downloads")


@pytest.mark.parametrize(
    "address", ["../..", "a/..", "a/b/c", "a", "/", "a /b", "a/b\n", "-a/b", "datasets/../x", "a/b c", "a/."]
)
def test_addresses_that_are_no_repository(address):
    with refused("is not a repository on the hub"):
        parse(address)


@pytest.mark.parametrize("address", ["hf://o/r/../../x", "hf://../r/x", "hf://o/./x", "hf://o//x", "hf:///o/r/x"])
def test_addresses_of_weights(address):
    with refused("is not an address on the hub"):
        local(address)


def test_a_file_that_is_sent_packed_is_not_unpacked(server, tmp_path):
    server.files["/x"] = gzip.compress(bytes(2**27))
    server.headers["Content-Encoding"] = "gzip"
    with at_most(32), pytest.raises(FggError, match=r"is sent packed \(gzip\)"):
        download(row(server), tmp_path)
    assert not (tmp_path / "it").exists()


def test_a_stream_without_an_end_leaves_room_on_the_disk(server, tmp_path, monkeypatch):
    """The server does not say how long the file is; the disk fills while it is written."""
    server.files["/x"] = bytes(2**22)
    server.headers["Content-Length"] = ""
    free = [transfer.MARGIN * 8]

    def usage(path: Path) -> object:
        free[0] -= transfer.MARGIN * 2
        return type("Usage", (), {"free": free[0]})

    monkeypatch.setattr(transfer.shutil, "disk_usage", usage)
    monkeypatch.setattr(transfer, "CHECK_EVERY", 4)
    with pytest.raises(FggError, match="are free; free some space"):
        transfer.fetch(f"{server.url}/x", tmp_path / "x")
    assert (tmp_path / "x.part").stat().st_size <= 16 * transfer.CHUNK


def test_a_length_beyond_the_disk(server, tmp_path):
    server.files["/x"] = b"1"
    server.headers["Content-Length"] = str(2**60)
    with pytest.raises(FggError, match=r"needs .* GB on the disk"):
        download(row(server), tmp_path)


@pytest.mark.parametrize(
    "scheme", ["file:///etc/passwd", "ftp://127.0.0.1/x", "javascript:x", "/etc/passwd", "data:,x"]
)
def test_other_kinds_of_addresses_are_not_followed(tmp_path, scheme, monkeypatch):
    monkeypatch.setattr(transfer, "BACKOFF", 0.0)
    with pytest.raises(FggError, match="is not an address"):
        download(Row("it", "http", scheme, "x"), tmp_path)
