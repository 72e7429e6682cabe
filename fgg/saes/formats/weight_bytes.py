"""The bytes of files of weights, read only if they begin like such a file: a sparse file of any length takes no disk."""

from __future__ import annotations

import struct
from pathlib import Path

from fgg.errors import FggError
from fgg.models.checkpoint_files import MOST_BYTES, ZIP_START

NO_TENSORS = "this is not a file of tensors that torch.save wrote, or it is damaged"
LENGTH, MOST_HEADER = struct.Struct("<Q"), 2**27  # of a safetensors file


def read_bytes(file: Path, at: int = 0) -> bytes:
    """The bytes of a file of torch from a place on; they are read only if they begin like such a file.

    Raises:
        FggError: it begins in another way, or is larger than any SAE.
    """
    size = file.stat().st_size - at
    if size > MOST_BYTES:
        raise FggError(f"the file has {size:,} bytes, more than any SAE")
    with file.open("rb") as opened:
        opened.seek(at)
        start = opened.read(len(ZIP_START))
        if start and start != ZIP_START:
            raise FggError(NO_TENSORS)
        return start + opened.read()


def header_of(file: Path) -> bytes:
    """The names of the tensors of a safetensors file, as it holds them. Raises FggError: it is no such file."""
    with file.open("rb") as opened:
        start = opened.read(LENGTH.size)
        length = LENGTH.unpack(start)[0] if len(start) == LENGTH.size else 0
        if not 0 < length < MOST_HEADER:
            raise FggError("this is not a safetensors file, or it is damaged")
        return opened.read(length)
