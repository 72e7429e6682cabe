"""What the commands share: error messages and exit status, start-up time, and common arguments."""

from __future__ import annotations

import argparse
import ctypes
import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from fgg.errors import OUT_OF_MEMORY, FggError, Named, explain_os_error, parse_json
from fgg.jobs.shards import WHOLE, Shard
from fgg.visible import visible

# How torch and the libraries below it word a lack of memory, in RuntimeErrors.
LAYOUT = "\n\t"  # what a message may hold beside text; escapes in names of files would reach the terminal
MEMORY_WORDS = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "bad_alloc")


def command(main: Callable[[list[str] | None], None]) -> Callable[..., int]:
    """Wrap a command's main function: an error that the user can fix becomes one clear message.

    The wrapped function returns 0, or 1 after printing ``error: …`` to standard error. Errors that are not the user's
    keep their traceback. If ``FGG_TIMING`` is in the environment, as in the workflow's jobs, a last line reports the
    start-up time of the process; `fgg.bench` adds these up.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        started()
        _keep_freed_memory()
        try:
            main(argv)
            if "FGG_TIMING" in os.environ and _start is not None:
                print(f"start-up took {_start:.2f} s of {process_age():.2f} s")
        except FggError as error:
            message = str(error)
        except MemoryError:
            message = OUT_OF_MEMORY
        except RuntimeError as error:
            if not any(words in str(error).lower() for words in MEMORY_WORDS):
                raise
            message = OUT_OF_MEMORY
        except OSError as error:
            message = explain_os_error(error)
        except KeyboardInterrupt:
            print("error: interrupted; what is finished is kept, and the same command goes on", file=sys.stderr)
            sys.excepthook = _without_interruption
            raise
        else:
            return 0
        print(f"error: {visible(message, keep=LAYOUT)}", file=sys.stderr)
        return 1

    return run


def _keep_freed_memory() -> None:
    """Let glibc keep what a batch has freed for the next one.

    By default it gives large blocks back to the system at once, and each batch waits for the system to clear new ones:
    a tenth of the time of the perturbed forward passes. Other C libraries have no such setting.
    """
    trim_threshold, mmap_threshold = -1, -3  # names of mallopt's settings, from malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return
    mallopt(trim_threshold, 2**30)
    mallopt(mmap_threshold, 2**25)  # the largest value that it accepts


def _without_interruption(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The interpreter's last words, but none about an interruption, which has been told."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)


_start: float | None = None  # seconds until the work began


def started() -> None:
    """Record that start-up ends here; a command that imports modules later calls this again after that."""
    global _start
    _start = process_age()


def process_age() -> float | None:
    """Seconds since this process started; None if the system does not report it."""
    try:
        started = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    except (OSError, ValueError, IndexError):
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def json_object(text: str) -> Named:
    """Parse a JSON object; for use as argparse's ``type``.

    Raises:
        argparse.ArgumentTypeError: the text is not a JSON object.
    """
    try:
        return parse_json(text, "the settings lack {key}; given: {given}")
    except ValueError as error:
        start = text if len(text) < 80 else f"{text[:80]}…"
        raise argparse.ArgumentTypeError(f"{start!r} is not a JSON object ({error}); give one, such as {{}}") from None


ARGUMENTS: dict[str, dict[str, Any]] = {
    "model": {"type": Path, "required": True, "help": "model folder"},
    "data": {"type": Path, "required": True, "help": "folder of the prepared dataset"},
    "images": {"type": Path, "required": True, "help": "prepared split (.parquet)"},
    "layer": {"type": int, "required": True, "help": "block whose output the SAE reads, from 0"},
    "experiment": {"type": json_object, "required": True, "help": "JSON: method, gate, control"},
    "settings": {"type": json_object, "required": True, "help": "JSON"},
    "output": {"type": Path, "required": True, "help": "table to write"},
    "code": {"default": "", "metavar": "HASH", "help": "hash of the code that makes the table, kept in its metadata"},
    "shard": {"type": Shard.parse, "default": WHOLE, "metavar": "K-of-N", "help": "one of N groups of images"},
}


def add_arguments(parser: argparse.ArgumentParser, *names: str, **helps: str) -> None:
    """Add arguments from `ARGUMENTS` by name; keywords add arguments with the given help text."""
    for name in (*names, *helps):
        options = ARGUMENTS[name]
        parser.add_argument(f"--{name}", **options | {"help": helps.get(name, options["help"])})
