"""Unpack zip and tar archives from untrusted sources.

An archive can name any path, contain links and devices, and expand without limit. Only plain files and folders below
the target are written. They and their bytes are counted as they are written, since what an archive states may be false.
What is read at once is bounded, so that a small archive cannot fill the memory. Archives in an archive stay packed.
"""

from __future__ import annotations

import errno
import gzip
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from fgg.errors import FggError
from fgg.progress import progress

# Images and weights hardly compress. An archive that expands beyond these limits is not a dataset.
MOST_GROWTH, LEAST_ALLOWED, MOST_FILES, MOST_DEPTH = 20, 2**30, 2_000_000, 100
CHUNK, ENCRYPTED = 2**20, 1
MOST_HEADER = 2 * CHUNK  # what a tar says about one member: its name, and the map of a sparse file
# Of bzip2 and LZMA, zipfile unpacks all that a block holds at once: gigabytes from some kilobytes.
METHODS = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "LZMA"}
DIRECTORY, END, END64, LOCATOR = b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    struct.error,
    EOFError,
    NotImplementedError,
    ValueError,
    OverflowError,
)


class NoRoom(FggError):
    """The archive may be intact, but the disk is too small for it."""


def unpack(archive: Path, target: Path) -> tuple[int, int]:
    """Unpack a zip or tar archive (gzip, bzip2, xz) into a new folder; returns the number of files and of bytes.

    Raises:
        FggError: the file is not an archive, is damaged or encrypted, expands beyond the limits, or has an unsafe
            member: a path outside the folder, a link, a device, the same file twice, or a name that is too long. The
            folder is then removed.
    """
    allowed = max(LEAST_ALLOWED, MOST_GROWTH * archive.stat().st_size)
    free = shutil.disk_usage(archive.parent).free
    target.mkdir(parents=True)
    files, made, size, complete, name = 0, 0, 0, False, archive.name
    try:
        with archive.open("rb") as packed, progress([], archive.stat().st_size, "unpacking", "byte") as bar:
            for member, content in _members(packed):
                place = target / _safe(member)
                folder = place if content is None else place.parent
                new = list(takewhile(lambda each: not each.exists(), (folder, *folder.parents)))
                made += len(new) + (content is not None)
                if made > MOST_FILES:
                    raise FggError(f"it holds more than {MOST_FILES} files and folders")
                folder.mkdir(parents=True, exist_ok=True)
                if content is None:
                    continue
                files += 1
                with place.open("xb") as file:
                    while chunk := content.read(CHUNK):
                        size += len(chunk)
                        if size > allowed:
                            raise FggError(f"unpacked, it is larger than {allowed:,} bytes, too large for a dataset")
                        if size > free:
                            raise NoRoom(f"unpacked, it does not fit on the disk, which had {free:,} bytes free")
                        file.write(chunk)
                bar.update(max(0, packed.tell() - bar.done))
        complete = True
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        twice = Path(str(error.filename)).name
        raise FggError(
            f"{name} cannot be unpacked: it contains a file twice, or a file and a folder of the same name ({twice})"
        ) from None
    except DAMAGED as error:
        raise FggError(f"{name} cannot be unpacked: it is damaged or incomplete ({error})") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise FggError(f"{name} cannot be unpacked: a name in it is too long for this disk") from None
        if error.errno is None:  # bzip2's word for damage
            raise FggError(f"{name} cannot be unpacked: it is damaged or incomplete ({error})") from None
        raise
    except FggError as error:
        raise type(error)(f"{name} cannot be unpacked: {error}") from None
    finally:
        if not complete:
            shutil.rmtree(target, ignore_errors=True)
    return files, size


def _members(packed: BinaryIO) -> Iterator[tuple[str, IO[bytes] | None]]:
    """(name, content) of all files, (name, None) of all folders, in the archive's order."""
    if zipfile.is_zipfile(packed):
        _check_count(packed)
        yield from _zip_members(packed)
        return
    packed.seek(0)
    start = packed.read(512).lstrip().lower()
    packed.seek(0)
    try:
        parts = _Tar.open(fileobj=packed, mode="r:*")
    except tarfile.ReadError:
        page = "; it is a web page" if start.startswith((b"<!doctype", b"<html")) else ""
        raise FggError(f"it is neither a zip nor a tar archive, or it is damaged{page}") from None
    with parts:
        yield from _tar_members(parts)


def _check_count(packed: BinaryIO) -> None:
    """Raise FggError if a zip's directory has too many entries: zipfile would hold them all in memory."""
    at = max(0, packed.seek(0, 2) - 2**16 - 22)
    packed.seek(at)
    tail = packed.read()
    end = tail.rfind(END)
    size, place = struct.unpack_from("<L", tail, end + 12)[0], at + end
    if end >= 20 and tail[end - 20 :].startswith(LOCATOR):
        packed.seek(struct.unpack_from("<Q", tail, end - 12)[0])
        record = packed.read(56)
        if record.startswith(END64):
            size, place = struct.unpack_from("<Q", record, 40)[0], at + end - 20 - len(record)
    packed.seek(max(0, place - size))
    count = 0
    while (entry := packed.read(46)).startswith(DIRECTORY) and len(entry) == 46:
        packed.seek(sum(struct.unpack_from("<3H", entry, 28)), 1)
        count += 1
        if count > MOST_FILES:
            raise FggError(f"it holds more than {MOST_FILES} files and folders")


def _zip_members(packed: BinaryIO) -> Iterator[tuple[str, IO[bytes] | None]]:
    with zipfile.ZipFile(packed) as parts:
        for info in parts.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise FggError(f"{info.orig_filename!r} is a link or a device; only files and folders are unpacked")
            if info.flag_bits & ENCRYPTED:
                raise FggError(f"{info.orig_filename!r} is encrypted")
            if method := METHODS.get(info.compress_type):
                raise FggError(
                    f"{info.orig_filename!r} is compressed by {method}; pack it again as a usual zip (deflate)"
                )
            if info.is_dir():
                yield info.orig_filename, None
            else:
                with parts.open(info) as content:
                    yield info.orig_filename, content


class _Stream:
    """The unpacked bytes of a tar, of which a header may take only so many."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close
        self.left: int | None = MOST_HEADER  # what the next header may still read; None while a file is read

    def read(self, size: int) -> bytes:
        """Read bytes. Raises FggError if a header is too long."""
        if self.left is not None:
            self.left -= size
            if not size >= 0 or self.left < 0:
                raise FggError("what it says about one of its files is too long")
        return self._file.read(size)


class _Tar(tarfile.TarFile):
    """A tar that is read through a `_Stream`, whatever compresses it."""

    members: list[Any]

    @classmethod
    def taropen(cls, name: Any, mode: Any = "r", fileobj: Any = None, **options: Any) -> Any:
        """What all ways to open a tar end in."""
        return super().taropen(name, mode, _Stream(fileobj), **options)


def _tar_members(parts: _Tar) -> Iterator[tuple[str, IO[bytes] | None]]:
    stream: Any = parts.fileobj
    while True:
        stream.left = MOST_HEADER
        info = parts.next()
        stream.left = None
        if info is None:
            break
        parts.members.clear()  # else tarfile keeps them all
        if info.size < 0:
            raise tarfile.ReadError("a file has a negative size")
        if info.isdir() and not info.size:
            yield info.name, None
        elif info.isreg():
            content = parts.extractfile(info)
            assert content is not None
            yield info.name, content
        else:
            raise FggError(f"{info.name!r} is a link or a device; only files and folders are unpacked")
    # After the last member come zeros, and in a compressed tar its checksum, which is verified only when it is reached.
    for _ in range(LEAST_ALLOWED // CHUNK):
        if not stream.read(CHUNK):
            return
    raise FggError("the data after its last file does not end")


def _safe(name: str) -> PurePosixPath:
    """A member's name as a path below the target. Raises FggError for a name that would leave it, or is no name."""
    path = PurePosixPath(name)
    outside = path.is_absolute() or ".." in path.parts or (len(name) > 1 and name[1] == ":")
    if outside or "\\" in name or "\0" in name:
        raise FggError(f"{name!r} is a path outside the folder")
    if not path.parts and name not in (".", "./"):
        raise FggError(f"{name!r} is not a name")
    if len(path.parts) > MOST_DEPTH:
        raise FggError(f"a name in it is too long: it has {len(path.parts)} folders, more than {MOST_DEPTH}")
    return path
