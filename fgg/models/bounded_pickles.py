"""Bounds on what a file of torch can ask for while it is read: a few hundred bytes must not take gigabytes.

``torch.load(weights_only=True)`` runs no code of a file. It does not bound memory: parts of a zip may be packed a
thousandfold, one number may stand for a tensor of any size, and a pickle may ask for arrays without content.
"""

from __future__ import annotations

import contextlib
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from torch import Tensor, strided
from torch.utils import deterministic

from fgg.errors import FggError

MOST_REPEATED = 2**28  # bytes of all tensors that repeat fewer numbers
SPARE = 2**20  # bytes by which tensors may exceed their file, for those that torch aligns or makes itself
LEGACY_PICKLES = 5  # torch's old files begin with a mark, a version, facts about the machine, the content, and a list
ASKS = {"bytearray"}  # names that take a size and make so many bytes
UNSAFE = "cannot be read safely as weights: "
PUTS = ("PUT", "BINPUT", "LONG_BINPUT")


@contextlib.contextmanager
def unfilled() -> Iterator[None]:
    """Inside the block, a tensor that a pickle makes without content takes no memory, in deterministic mode either."""
    mode: Any = deterministic  # a module with a property, which its stubs lack
    before, mode.fill_uninitialized_memory = mode.fill_uninitialized_memory, False
    try:
        yield
    finally:
        mode.fill_uninitialized_memory = before


def check_zip(parts: zipfile.ZipFile, size: int) -> None:
    """Check a zip that torch wrote: its parts are not packed, not larger than the file, and its pickle is in bounds.

    Args:
        parts: the zip.
        size: bytes of the file.

    Raises:
        FggError: something is not so.
    """
    entries = parts.infolist()
    packed = next((entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        raise FggError(f"{UNSAFE}{packed} in it is packed, as torch.save does not; save it again with torch.save")
    if sum(entry.file_size for entry in entries) > size:
        raise FggError(f"{UNSAFE}its parts are larger than the file; fetch it again")
    for entry in entries:
        if entry.filename.endswith(".pkl"):
            with parts.open(entry) as pickle:
                check_pickle(pickle, entry.file_size)


def check_legacy(file: BinaryIO, size: int) -> None:
    """Check the pickles at the start of a file that torch wrote before version 1.6. Raises FggError like `check_pickle`."""
    for _ in range(LEGACY_PICKLES):
        if file.tell() >= size:
            break
        check_pickle(file, size)
    file.seek(0)


def check_pickle(file: Any, size: int) -> None:
    """Read a pickle up to its end without doing what it says.

    Raises:
        FggError: it is damaged, keeps values at places beyond its length, or asks for bytes by their number.
    """
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in PUTS and int(argument) > size:
                raise FggError(f"{UNSAFE}its pickle asks for a list of {int(argument):,} places; it was refused")
            if isinstance(argument, str) and argument.split(" ")[-1] in ASKS:
                raise FggError(f"{UNSAFE}its pickle asks for {argument}, which no weights need; it was refused")
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise FggError(f"{UNSAFE}its pickle is damaged or incomplete ({reason}); fetch it again") from None


def check_tensors(content: Any, size: int) -> None:
    """Check that the tensors in what a file gave are not larger than it, but for `MOST_REPEATED` bytes of repetition.

    Args:
        content: what was read: tensors, and mappings and sequences of them.
        size: bytes of the file.

    Raises:
        FggError: they are.
    """
    own: dict[int, int] = {}
    repeated, seen, left = 0, {id(content)}, [content]
    while left:
        value = left.pop()
        if isinstance(value, Tensor):
            if value.layout != strided or value.device.type == "meta":
                continue
            stored = value.untyped_storage()
            own[stored.data_ptr()] = stored.nbytes()
            if value.numel() * value.element_size() > stored.nbytes():
                repeated += value.numel() * value.element_size()
            continue
        if isinstance(value, Mapping):
            inner = list(value.values())
        else:
            inner = list(value) if isinstance(value, list | tuple | set) else []
        inner += [getattr(value, "fields", None), getattr(value, "args", None)] if hasattr(value, "fields") else []
        left += [each for each in inner if id(each) not in seen]
        seen |= {id(each) for each in inner}
    if sum(own.values()) > size + SPARE or repeated > MOST_REPEATED:
        raise FggError(f"{UNSAFE}its tensors are larger than the file ({size:,} bytes); it was refused")
