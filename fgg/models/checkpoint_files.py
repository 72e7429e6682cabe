"""Read a file of weights as Python values, without running code from it.

A file's format is recognised by its first bytes, not by its name: safetensors; a file written by ``torch.save``, today
or before version 1.6; or a tar, gzipped or not, that holds one such file, which is read without unpacking the tar.
Pickles are read with ``weights_only=True``.
"""

from __future__ import annotations

import argparse
import io
import pathlib
import pickle
import re
import struct
import tarfile
import zipfile
import zlib
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError

from fgg.errors import FggError, names
from fgg.models.bounded_pickles import check_legacy, check_tensors, check_zip, unfilled
from fgg.models.foreign_files import foreign, foreign_zip

# Errors that the readers of weights raise for damaged or foreign files; to the user they all mean the same.
UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    EOFError,
    struct.error,
    zlib.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    SafetensorError,
)
SUFFIXES = (".pth", ".pt", ".tar", ".bin", ".ckpt", ".safetensors")
BEST = "model_best"
# The largest ViT has 9 GB in float32, and three times as much with its optimiser: a larger file is not a model.
MOST_BYTES = 2**34
GZIP_START, ZIP_START, PICKLE_START = b"\x1f\x8b", b"PK\x03\x04", b"\x80"
TAR_MARK, TAR_MARK_AT = b"ustar", 257
FOLDER_BIT = 0x10


def damaged_part(file: BinaryIO) -> str:
    """The first damaged part of a zip that torch wrote, or an empty string; torch itself verifies no checksums.

    For a tensor that is marked as a folder, torch would return uninitialised memory.

    Raises:
        FggError: it would take more memory than its length (`fgg.models.bounded_pickles`).
    """
    size = file.seek(0, 2)
    with zipfile.ZipFile(file) as parts:
        check_zip(parts, size)
        folders = (part.filename for part in parts.infolist() if part.external_attr & FOLDER_BIT)
        found = parts.testzip() or next(folders, "")
    file.seek(0)
    return found


def first_line(error: BaseException) -> str:
    """The first line of an error's text, with the error's type if the text alone says little."""
    text = next(iter(str(error).strip().splitlines()), "")
    return text if " " in text else f"{type(error).__name__} {text}".strip()


def content_of(file: BinaryIO) -> Any:
    """The content of a file in any known format."""
    start = file.read(TAR_MARK_AT + len(TAR_MARK))
    file.seek(0)
    try:
        # Checked first: the length at the start of a safetensors file may look like any other format.
        if _starts_safetensors(start):
            from safetensors.torch import load

            return dict(sorted(load(file.read()).items()))  # load returns them in any order
        if start.startswith(GZIP_START) or start[TAR_MARK_AT:] == TAR_MARK:
            return _from_tar(file)
        if start.startswith(ZIP_START):
            if what := foreign_zip(file):
                raise FggError(f"cannot be read safely as weights: it is {what}")
            damage = damaged_part(file)
            if damage:
                raise FggError(f"cannot be read safely as weights: it is damaged (at {damage}); fetch it again")
        size = file.seek(0, 2)
        file.seek(0)
        if start.startswith(PICKLE_START):
            check_legacy(file, size)
        if start.startswith((ZIP_START, PICKLE_START)):
            content = _load(file)
            check_tensors(content, size)
            return content
    except FggError:
        raise
    except MemoryError:
        raise FggError("cannot be read safely as weights: it asks for more memory than there is") from None
    except UNREADABLE as error:
        raise FggError(
            f"cannot be read safely as weights: it is damaged, or in another format ({first_line(error)})"
        ) from None
    if not start:
        raise FggError("cannot be read safely as weights: it is empty; fetch it again")
    if what := foreign(start):
        raise FggError(f"cannot be read safely as weights: it is {what}")
    raise FggError(
        "cannot be read safely as weights: it is neither safetensors nor a torch checkpoint, nor a tar that holds one"
    )


def _starts_safetensors(start: bytes) -> bool:
    """Whether the first bytes are a length and an opening brace."""
    return len(start) > 9 and start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] < 2**27


def _from_tar(file: BinaryIO) -> Any:
    """The content of the only checkpoint in a tar, or of the best one of several; nothing is written to the disk."""
    with tarfile.open(fileobj=file, mode="r:*") as archive:
        found = []
        for member in archive:
            if member.size > MOST_BYTES:
                raise FggError(f"holds {member.name} of {member.size} bytes, more than any model has; it was refused")
            name = pathlib.PurePosixPath(member.name).name
            if member.isfile() and not name.startswith(".") and name.endswith(SUFFIXES):
                found.append(member)
        best = [member for member in found if pathlib.PurePosixPath(member.name).name.startswith(BEST)] or found
        if len(best) != 1:
            what = f"several checkpoints ({names([member.name for member in best])})" if best else "no checkpoint"
            raise FggError(f"is an archive with {what}; unpack it, and give the path of the right file")
        stream = archive.extractfile(best[0])
        content = stream.read() if stream else b""
    if content.startswith(GZIP_START) or content[TAR_MARK_AT : TAR_MARK_AT + len(TAR_MARK)] == TAR_MARK:
        raise FggError(f"is an archive that holds another archive, {best[0].name}; unpack it")
    try:
        return content_of(io.BytesIO(content))
    except FggError as error:
        raise FggError(f"holds {best[0].name}, which {error}") from None


def _load(file: BinaryIO) -> Any:
    """Tensors and plain values of a torch file; a pickle that names anything else is refused."""
    try:
        with unfilled(), torch.serialization.safe_globals(_harmless()):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message advises loading the file unsafely, so it is not passed on.
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise FggError(
                f"cannot be read safely as weights: it names {refused[1]}, which does not belong to weights; it was "
                "refused. If you trust its author, ask for the tensors alone: torch.save(model.state_dict(), file)"
            ) from None
        raise FggError("cannot be read safely as weights: it holds more than tensors, or is damaged") from None


def _harmless() -> list[Any]:
    """Classes that training scripts leave in checkpoints, and that only hold values."""
    numbers = [type(np.dtype(kind)) for kind in ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")]
    scalar, rebuild = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    return [
        argparse.Namespace,
        (pathlib.PurePosixPath, "pathlib.PosixPath"),  # a path is only text here
        np.dtype,
        np.ndarray,
        *numbers,
        # numpy 1 and numpy 2 name them differently.
        *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
        *((rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    ]
