"""Errors that are meant to be read by the person who runs fgg."""

from __future__ import annotations

import argparse
import atexit
import errno
import functools
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from fgg import compiler

OUT_OF_MEMORY = (
    "out of memory; set a smaller `batch_size`, run fewer jobs at once (--cores), or use a machine with more memory"
)
# How torch and what it rests on word it; they raise RuntimeErrors.
MEMORY_WORDS = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "bad_alloc")


class FggError(Exception):
    """Something the user can mend; the message names the thing and the remedy."""


def command(main: Callable[[list[str] | None], None]) -> Callable[..., int]:
    """Wrap a command's main function: an error that the user can mend becomes one clear message.

    Returns 0, or 1 after printing ``error: …`` to standard error. Errors that are not the user's
    keep their traceback. With ``FGG_TIMING`` in the environment, as in the workflow's jobs, a last line tells what
    the start of the process cost; `fgg.bench` adds these up.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        compiler.put_back()
        if not gc.isenabled():  # see fgg/__init__.py
            gc.freeze()
            atexit.register(gc.unfreeze)
            gc.enable()
        start = process_age() if "FGG_TIMING" in os.environ else None
        try:
            main(argv)
            if start is not None:
                print(f"start-up took {start:.2f} s of {process_age():.2f} s")
        except FggError as error:
            message = str(error)
        except MemoryError:
            message = OUT_OF_MEMORY
        except RuntimeError as error:
            if not any(words in str(error).lower() for words in MEMORY_WORDS):
                raise
            message = OUT_OF_MEMORY
        except OSError as error:
            message = _explain(error)
        else:
            return 0
        print(f"error: {message}", file=sys.stderr)
        return 1

    return run


def leave(status: int) -> NoReturn:
    """End this process with an exit status, at once: to take PyTorch apart first costs a second."""
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        status = status or 1  # what was said is lost
    os._exit(status)


def process_age() -> float | None:
    """Seconds since this process started; None where the system does not tell."""
    try:
        started = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    except (OSError, ValueError, IndexError):
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def _explain(error: OSError) -> str:
    """Say what an operating-system error means for the user; raise it again if that is unknown."""
    place = error.filename or "the output folder"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk while writing {place}; free some and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to use {place}; choose another folder with --directory, or mend its permissions"
    if error.errno == errno.ENOMEM:
        return OUT_OF_MEMORY
    meaning = MEANINGS.get(error.errno or 0)
    if meaning is None:
        raise error
    return f"{place} {meaning}"


MEANINGS = {
    errno.ENOENT: "does not exist; check the path, or run the same command again to rebuild it",
    errno.EISDIR: "is a folder, where a file is needed; move it away, or give another path",
    errno.ENOTDIR: "leads through a file, where a folder is needed; move that away, or give another path",
    errno.EEXIST: "is a file, where a folder is needed; move it away, or give another path",
    errno.ENOTEMPTY: "is a folder that is not empty; move it away, or give another path",
    errno.ENAMETOOLONG: "has too long a name; shorten the names of the dataset and the folders",
    errno.ELOOP: "is a symbolic link that leads to itself; mend the link",
    errno.EFBIG: "grows beyond the size that is allowed for a file; see `ulimit -f`, and the file system's limit",
    errno.EMFILE: "cannot be opened, since too many files are; raise the limit (`ulimit -n`), or run fewer jobs at once",
    errno.ENFILE: "cannot be opened, since too many files are; run fewer jobs at once",
    errno.EIO: "cannot be read or written, since the disk reports a fault; check it, or use another one",
    errno.ESTALE: "is no longer known to the file server; mount it anew, and run the same command again",
}


class Named(dict):
    """An object of JSON that says what it lacks: ``missing`` is the message, with ``{key}`` and ``{given}``."""

    def __init__(self, items: Mapping[str, Any] = MappingProxyType({}), missing: str = "{key} is missing") -> None:
        super().__init__(items)
        self.missing = missing

    def __missing__(self, key: str) -> Any:
        """Raise FggError."""
        given = ", ".join(sorted(map(str, self))) or "nothing"
        raise FggError(self.missing.format(key=repr(key), given=given))


def parse_json(text: str, missing: str) -> Named:
    """Parse JSON that must be an object, whose lacking keys raise FggError with the message ``missing``.

    Raises:
        ValueError: it is none.
    """
    value = json.loads(text, object_hook=lambda items: Named(items, missing))
    if not isinstance(value, Named):
        raise ValueError("no object in braces")
    return value


def json_object(text: str) -> Named:
    """An argument that is an object in JSON, as argparse's ``type``.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        return parse_json(text, "the settings lack {key}; given: {given}")
    except ValueError as error:
        start = text if len(text) < 80 else f"{text[:80]}…"
        raise argparse.ArgumentTypeError(
            f"{start!r} is not an object in JSON ({error}); give one, such as {{}}"
        ) from None
