"""What the tests of hostile files share: the memory that a call takes, and what must stay untouched around it."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from fgg.errors import FggError

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MEGABYTE = 2**20


def _peak() -> int:
    """The largest resident memory of this process so far, or since it was reset, in bytes."""
    with contextlib.suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def at_most(megabytes: float) -> Iterator[None]:
    """What happens inside may take no more resident memory than this, beside what the process has already."""
    with contextlib.suppress(OSError):
        RESET.write_text("5")  # Linux: the peak starts again from what is resident now
    before = _peak()
    yield
    taken = (_peak() - before) / MEGABYTE
    assert taken <= megabytes, f"{taken:.0f} MB were taken, more than {megabytes:.0f}"


@contextlib.contextmanager
def refused(says: str, megabytes: float = 64, around: Path | None = None) -> Iterator[None]:
    """What happens inside ends with one FggError that says ``says``, bounded memory, and no file written or changed.

    Args:
        says: a regular expression.
        around: the folder in which nothing may change.
    """
    before = _files(around)
    with at_most(megabytes), pytest.raises(FggError, match=says) as error:
        yield
    assert _files(around) == before, "files were written, changed or removed"
    text = str(error.value)
    assert "Traceback" not in text and "\x1b" not in text
    assert (error.value.__cause__ is None and error.value.__suppress_context__) or error.value.__context__ is None


def _files(folder: Path | None) -> dict[Path, bytes | None]:
    found = sorted(folder.rglob("*")) if folder else []
    return {path: path.read_bytes() if path.is_file() else None for path in found}
