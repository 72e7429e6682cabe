"""Decoded images that the jobs of a run share, so that only the first job that needs an image decodes it.

In a run, the jobs for the SAE, the prototypes and the features of each layer read the same training images, and decoding these
takes them longer than the model's passes. The pixels that one of them has made lie in a file in the folder that the jobs
share (see `fgg.jobs.shared_work`); `fgg.data.load` looks there first. Outside a run, nothing is kept.

The file has a record per row of the prepared split: the pixels, and a mark with their checksum, which tells a record that is
whole from one that is missing or was cut off.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fgg.checksums import SHARED
from fgg.data import grey_channels, images, preprocess
from fgg.data.preprocess import Preprocess

MOST_BYTES = 2**30  # that a split's decoded images take on the disk
LEAST_FREE = 2**31  # bytes of the disk that are left for everything else
FARTHEST = 2**34  # where a record may start; on most file systems, what lies between two records takes no space
TRAILER = struct.Struct("<II")
MARK = 0x66676731
MAKERS = ("pillow", "numpy", "scipy", "torch")  # libraries on which pixels depend, besides this package's modules


class Decoded:
    """The decoded images of a split.

    Args:
        file: number of an open file.
        shape: (C, H, W) of an image.
    """

    def __init__(self, file: int, shape: tuple[int, ...]) -> None:
        self._file, self._shape = file, shape
        self._bytes = 4 * int(np.prod(shape))
        self._full = False

    def get(self, row: int) -> Tensor | None:
        """The pixels (C, H, W) float32 of a row; None if no job has decoded it."""
        try:
            record = os.pread(self._file, self._bytes + TRAILER.size, row * (self._bytes + TRAILER.size))
        except OSError:
            return None
        if len(record) < self._bytes + TRAILER.size:
            return None
        pixels = memoryview(record)[: self._bytes]
        mark, checksum = TRAILER.unpack_from(record, self._bytes)
        if mark != MARK or checksum != zlib.crc32(pixels):
            return None
        return torch.from_numpy(np.frombuffer(pixels, np.float32).reshape(self._shape).copy())

    def put(self, row: int, pixels: Tensor) -> None:
        """Keep the pixels of a row, if there is room for them."""
        if self._full:
            return
        content = pixels.numpy().tobytes()
        record = content + TRAILER.pack(MARK, zlib.crc32(content))
        place = row * len(record)
        try:
            disk = os.fstatvfs(self._file)
            taken, free = 512 * os.fstat(self._file).st_blocks, disk.f_bavail * disk.f_frsize
            self._full = taken + len(record) > MOST_BYTES or free - len(record) < LEAST_FREE
            if not self._full and place <= FARTHEST:
                os.pwrite(self._file, record, place)
        except OSError:  # no space: later jobs decode the image themselves
            self._full = True


@contextlib.contextmanager
def decoded(path: Path, settings: Preprocess) -> Iterator[Decoded | None]:
    """The shared images of a split inside the block; None outside a run, or where they cannot be kept.

    Args:
        path: the prepared split.
        settings: what makes the pixels.
    """
    shared = os.environ.get(SHARED)
    shape = (settings.n_channels, *settings.output_size)
    file = -1
    if shared:
        with contextlib.suppress(OSError):  # a split that is missing is reported by its reader
            place = Path(shared, "pixels", _key(path, settings))
            place.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield Decoded(file, shape) if file >= 0 else None
    finally:
        if file >= 0:
            os.close(file)


def _key(path: Path, settings: Preprocess) -> str:
    """Equal for equal pixels: a later run may find those of a run that has failed."""
    facts = path.stat()
    own = {name: value for name, value in settings.to_dict().items() if name not in ("mean", "std")}
    file = (str(path.resolve()), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)
    return hashlib.sha256(json.dumps([file, own, _makers()], sort_keys=True).encode()).hexdigest()[:20]


@functools.cache
def _makers() -> list[str]:
    """The versions of all that makes pixels."""
    sources = [Path(str(module.__file__)).read_bytes() for module in (grey_channels, images, preprocess)]
    return [hashlib.sha256(b"".join(sources)).hexdigest(), *map(_version, MAKERS)]


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # under another name, as builds of Pillow for some processors are
        return "unknown"
