"""Unpack zip and tar archives from untrusted sources.

An archive can name any path, contain links and devices, and expand without limit. Only plain files and folders below
the target are written. Their bytes are counted as they are written, since the sizes stated by an archive may be false.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from fgg.errors import FggError
from fgg.progress import progress

# Images and weights hardly compress. An archive that expands beyond these limits is not a dataset.
MOST_GROWTH, LEAST_ALLOWED, MOST_FILES = 20, 2**30, 2_000_000
CHUNK, ENCRYPTED = 2**20, 1
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    EOFError,
    NotImplementedError,
)


class NoRoom(FggError):
    """The archive may be intact, but the disk is too small for it."""


def unpack(archive: Path, target: Path) -> tuple[int, int]:
    """Unpack a zip or tar archive (gzip, bzip2, xz) into a new folder; returns the number of files and of bytes.

    Raises:
        FggError: the file is not an archive, is damaged or encrypted, expands beyond the limits, or has an unsafe
            member: a path outside the folder, a link, a device, or the same file twice. The folder is then removed.
    """
    allowed = max(LEAST_ALLOWED, MOST_GROWTH * archive.stat().st_size)
    free = shutil.disk_usage(archive.parent).free
    target.mkdir(parents=True)
    files, size, complete, name = 0, 0, False, archive.name
    try:
        with archive.open("rb") as packed, progress([], archive.stat().st_size, "unpacking", "byte") as bar:
            for member, content in _members(packed):
                place = target / _safe(member)
                if content is None:
                    place.mkdir(parents=True, exist_ok=True)
                    continue
                files += 1
                if files > MOST_FILES:
                    raise FggError(f"it holds more than {MOST_FILES} files")
                place.parent.mkdir(parents=True, exist_ok=True)
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
    except FggError as error:
        raise type(error)(f"{name} cannot be unpacked: {error}") from None
    finally:
        if not complete:
            shutil.rmtree(target, ignore_errors=True)
    return files, size


def _members(packed: BinaryIO) -> Iterator[tuple[str, IO[bytes] | None]]:
    """(name, content) of all files, (name, None) of all folders, in the archive's order."""
    if zipfile.is_zipfile(packed):
        yield from _zip_members(packed)
        return
    packed.seek(0)
    start = packed.read(512).lstrip().lower()
    packed.seek(0)
    try:
        parts = tarfile.open(fileobj=packed, mode="r:*")  # noqa: SIM115 - closed below
    except tarfile.ReadError:
        page = "; it is a web page" if start.startswith((b"<!doctype", b"<html")) else ""
        raise FggError(f"it is neither a zip nor a tar archive, or it is damaged{page}") from None
    with parts:
        yield from _tar_members(parts)


def _zip_members(packed: BinaryIO) -> Iterator[tuple[str, IO[bytes] | None]]:
    with zipfile.ZipFile(packed) as parts:
        for info in parts.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise FggError(f"{info.orig_filename!r} is a link or a device; only files and folders are unpacked")
            if info.flag_bits & ENCRYPTED:
                raise FggError(f"{info.orig_filename!r} is encrypted")
            if info.is_dir():
                yield info.orig_filename, None
            else:
                with parts.open(info) as content:
                    yield info.orig_filename, content


def _tar_members(parts: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes] | None]]:
    for info in parts:
        if info.isdir():
            yield info.name, None
        elif info.isreg():
            content = parts.extractfile(info)
            assert content is not None
            yield info.name, content
        else:
            raise FggError(f"{info.name!r} is a link or a device; only files and folders are unpacked")
    # After the last member come zeros, and in a compressed tar its checksum, which is verified only when it is reached.
    assert parts.fileobj is not None
    for _ in range(LEAST_ALLOWED // CHUNK):
        if not parts.fileobj.read(CHUNK):
            return
    raise FggError("the data after its last file does not end")


def _safe(name: str) -> PurePosixPath:
    """A member's name as a path below the target. Raises FggError for a name that would leave it."""
    path = PurePosixPath(name)
    outside = path.is_absolute() or ".." in path.parts or (len(name) > 1 and name[1] == ":")
    if outside or "\\" in name or "\0" in name:
        raise FggError(f"{name!r} is a path outside the folder")
    if not path.parts and name not in (".", "./"):
        raise FggError(f"{name!r} is not a name")
    return path
