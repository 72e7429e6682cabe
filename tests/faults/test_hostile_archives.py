"""Archives that are made to do harm: nothing leaves the folder, memory and disk are bounded, one message."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile import at_most, refused

from fgg.data import archives
from fgg.data.archives import unpack

SMALL = 2**22  # what the tests let an archive grow to


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    """Limits that small archives reach."""
    monkeypatch.setattr(archives, "LEAST_ALLOWED", SMALL)
    monkeypatch.setattr(archives, "MOST_GROWTH", 1)


def zipped(names: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as parts:
        for name, data in names.items():
            parts.writestr(name, data)
    return buffer.getvalue()


def tarred(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as parts:
        for info, data in members:
            parts.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for key, value in more.items():
        setattr(info, key, value)
    return info


def header(name: str, kind: bytes, size: int) -> bytes:
    """A header alone, which may claim anything."""
    return member(name, size, kind).tobuf(tarfile.GNU_FORMAT)


def overlapping(count: int, inner: int) -> bytes:
    """A zip whose directory names the same packed bytes many times."""
    one = zipped({"x": bytes(inner)})
    at = one.index(b"PK\x01\x02")
    entry, end = one[at : one.index(b"PK\x05\x06")], bytearray(one[one.index(b"PK\x05\x06") :])
    struct.pack_into("<HHL", end, 8, count, count, len(entry) * count)
    return one[:at] + entry * count + bytes(end)


def claiming(entries: int) -> bytes:
    """A zip64 whose end claims so many entries."""
    one = zipped({"x": b"1"})
    at = one.index(b"PK\x05\x06")
    directory, size = one.index(b"PK\x01\x02"), at - one.index(b"PK\x01\x02")
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, entries, entries, size, directory)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
    end = bytearray(one[at:])
    struct.pack_into("<HHLL", end, 8, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    return one[:at] + end64 + locator + bytes(end)


def sparse_map_without_end() -> bytes:
    """A pax 1.0 sparse file whose map is longer than the archive."""
    info = member("x", 512, pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x"})
    return tarred((info, b"999999999\n".ljust(512, b"1")), form=tarfile.PAX_FORMAT)[:-2048]


def pax(**fields: str) -> bytes:
    return tarred((member("x", 1, pax_headers=fields), b"1"), form=tarfile.PAX_FORMAT)


# name -> the archive's bytes, what must be said
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "zip by ratio": (lambda: zipped({"x": bytes(2**25)}), "unpacked, it is larger than"),
    "zip of bzip2": (lambda: zipped({"x": bytes(2**26)}, zipfile.ZIP_BZIP2), "'x' is compressed by bzip2"),
    "zip of lzma": (lambda: zipped({"x": bytes(2**26)}, zipfile.ZIP_LZMA), "'x' is compressed by LZMA"),
    "zip whose entries overlap": (lambda: overlapping(2000, 2**16), "a file twice|larger than|[Oo]verlap"),
    "gzip by ratio": (lambda: gzip.compress(tarred((member("x", 2**25), bytes(2**25)))), "larger than"),
    "bzip2 by ratio": (lambda: bz2.compress(tarred((member("x", 2**25), bytes(2**25)))), "larger than"),
    "xz by ratio": (lambda: lzma.compress(tarred((member("x", 2**25), bytes(2**25)))), "larger than"),
    "gzip: a long name without end": (
        lambda: gzip.compress(header("././@LongLink", b"L", 2**26) + bytes(2**26)),
        "larger than|too long",
    ),
    "gzip: a pax header without end": (
        lambda: gzip.compress(header("x", b"x", 2**26) + bytes(2**26)),
        "larger than|too long",
    ),
    "gzip: a folder with content": (
        lambda: gzip.compress(header("x", b"5", 2**26) + bytes(2**26) + bytes(1024)),
        "larger than|link or a device|damaged",
    ),
    "gzip: only zeros": (lambda: gzip.compress(bytes(2**25)), "does not end"),
    "tar: a size of many terabytes": (lambda: header("x", b"0", 2**45) + bytes(2048), "damaged"),
    "tar: sparse, mostly holes": (
        lambda: pax(**{"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**50), "GNU.sparse.numblocks": "1"}),
        "larger than|sparse",
    ),
    "tar: a sparse map without end": (sparse_map_without_end, "damaged|sparse"),
    "tar: a size below zero": (lambda: pax(size="-512"), "damaged|outside|larger"),
    "tar: a size beyond all numbers": (lambda: pax(size="9" * 400), "damaged|larger|too large"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs(tmp_path, kind):
    make, says = BOMBS[kind]
    archive = tmp_path / "archive"
    archive.write_bytes(make())
    with refused(rf"archive cannot be unpacked: .*({says})", 48, tmp_path):
        unpack(archive, tmp_path / "out")


def nested(depth: int, name: str = "x") -> str:
    return "/".join(["d"] * depth + [name])


COUNTS: dict[str, Callable[[], bytes]] = {
    "zip of files": lambda: zipped({f"{i}": b"" for i in range(60)}),
    "tar of files": lambda: tarred(*((member(f"{i}"), b"") for i in range(60))),
    "zip of folders": lambda: zipped({f"{i}/": b"" for i in range(60)}),
    "tar of folders": lambda: tarred(*((member(f"{i}", 0, tarfile.DIRTYPE), b"") for i in range(60))),
    "folders within folders": lambda: zipped({nested(60): b"1"}),
    "deep folders of one file each": lambda: zipped({f"{i}/{nested(20)}": b"1" for i in range(5)}),
}


@pytest.mark.parametrize("kind", COUNTS)
def test_bombs_by_count(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(archives, "MOST_FILES", 50)
    archive = tmp_path / "archive"
    archive.write_bytes(COUNTS[kind]())
    with refused("archive cannot be unpacked: it holds more than 50 files and folders", around=tmp_path):
        unpack(archive, tmp_path / "out")


NAMES = {
    "a name of 300 letters": ("a" * 300, "too long"),
    "a path of 6,000 letters": (nested(3000), "too long"),
    "no name": (".", "twice|not a name|folder"),
    "a name that climbs at the end": ("a/..", "outside"),
    "a drive": ("C:\\x", "outside"),
    "a share": ("//host/x", "outside"),
}


@pytest.mark.parametrize("form", ["zip", "tar"])
@pytest.mark.parametrize("kind", NAMES)
def test_names_that_are_refused(tmp_path, kind, form):
    name, says = NAMES[kind]
    archive = tmp_path / "archive"
    archive.write_bytes(zipped({name: b"1"}) if form == "zip" else tarred((member(name, 1), b"1")))
    with refused(rf"archive cannot be unpacked: .*({says})", around=tmp_path):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("key", ["path", "linkpath"])
def test_a_pax_header_does_not_lead_out(tmp_path, key):
    archive = tmp_path / "archive"
    kind = tarfile.REGTYPE if key == "path" else tarfile.SYMTYPE
    archive.write_bytes(tarred((member("x", 0, kind, pax_headers={key: "../../x"}), b""), form=tarfile.PAX_FORMAT))
    with refused("outside the folder|is a link", around=tmp_path):
        unpack(archive, tmp_path / "out")


ODD = ["-rf", "a b\nc", "\x1b[2J", "a\u202egnp.exe", "Größe", "＝1", "con", "a;b|c&d", "$HOME", "~", "*"]


@pytest.mark.parametrize("form", ["zip", "tar"])
@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_only_names(tmp_path, name, form):
    archive = tmp_path / "archive"
    archive.write_bytes(zipped({name: b"1"}) if form == "zip" else tarred((member(name, 1), b"1")))
    assert unpack(archive, tmp_path / "out") == (1, 1)
    assert [path.name for path in (tmp_path / "out").rglob("*")] == [name]


@pytest.mark.parametrize("encoding", ["latin-1", "cp437", "shift-jis"])
def test_names_in_other_encodings_keep_their_bytes(tmp_path, encoding):
    name = "日本" if encoding == "shift-jis" else "Größe"
    archive = tmp_path / "archive"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", encoding=encoding, format=tarfile.GNU_FORMAT) as parts:
        parts.addfile(member(name, 1), io.BytesIO(b"1"))
    archive.write_bytes(buffer.getvalue())
    unpack(archive, tmp_path / "out")
    assert [bytes(path).rsplit(b"/")[-1] for path in (tmp_path / "out").rglob("*")] == [name.encode(encoding)]


def test_a_zip_that_claims_many_entries_and_holds_one(tmp_path):
    (tmp_path / "archive").write_bytes(claiming(10**9))
    with at_most(16):
        assert unpack(tmp_path / "archive", tmp_path / "out") == (1, 1)


def test_an_archive_in_an_archive_stays_packed(tmp_path):
    bomb = zipped({"y": bytes(2**24)})
    (tmp_path / "archive").write_bytes(zipped({"x.zip": bomb}))
    with at_most(16):
        assert unpack(tmp_path / "archive", tmp_path / "out") == (1, len(bomb))
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["x.zip"]


@pytest.mark.parametrize("bits", [0x1, 0x41])
def test_encrypted_members(tmp_path, bits):
    data = bytearray(zipped({"x": b"secret"}))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        struct.pack_into("<H", data, data.index(mark) + offset, bits)
    (tmp_path / "archive").write_bytes(data)
    with refused("'x' is encrypted", around=tmp_path):
        unpack(tmp_path / "archive", tmp_path / "out")


def test_two_names_of_one_member(tmp_path: Path):
    """The name in front of the data differs from that in the directory."""
    data = zipped({"x": b"1"}).replace(b"x", b"y", 1)
    (tmp_path / "archive").write_bytes(data)
    with refused("damaged", around=tmp_path):
        unpack(tmp_path / "archive", tmp_path / "out")
