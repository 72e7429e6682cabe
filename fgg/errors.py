"""Errors that are meant to be read by the person who runs fgg."""

from __future__ import annotations

import errno
import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path


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
        start = process_age() if "FGG_TIMING" in os.environ else None
        try:
            main(argv)
            if start is not None:
                print(f"start-up took {start:.2f} s of {process_age():.2f} s")
        except FggError as error:
            message = str(error)
        except MemoryError:
            message = "out of memory; set a smaller `batch_size`, or use a machine with more memory"
        except OSError as error:
            message = _explain(error)
        else:
            return 0
        print(f"error: {message}", file=sys.stderr)
        return 1

    return run


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
    if error.errno == errno.ENOENT:
        return f"{place} does not exist; check the path, or run the same command again to rebuild it"
    raise error
