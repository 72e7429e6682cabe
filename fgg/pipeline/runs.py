"""Ensures one run at a time in a folder, and removes the locks of killed runs. Does not import torch.

Snakemake's own lock is a file, which remains after a run is killed. A run also holds a lock of the operating system,
which ends with the process. If this lock is free, no run is active in the folder.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import json
import os
import platform
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from fgg.errors import FggError
from fgg.liveness import RUN, alive
from fgg.pipeline.again import helping

FOLDER = Path(".snakemake")
SHARED = FOLDER / "fgg" / "shared"  # what the jobs of a run share (fgg.jobs.shared_work)
FAILED_LOG = re.compile(r"^\s+log: (.+) \(check log file", re.MULTILINE)
TELLING = ("error: ", "Error: ", "Traceback")

BUSY = (
    "another run ({owner}) is at work in {folder}; wait until it has ended, "
    "or give this one a folder of its own with --directory"
)

PATIENCE, STEP = 60.0, 0.5  # seconds that a run waits for the last processes of a killed one, and between two looks
_held: list[TextIO] = []  # kept open until the process ends
_begun = threading.Event()  # set where a run that helps another one starts its jobs


def enter(folder: Path) -> str | None:
    """Prepare a folder before jobs are planned in it; return a note for the user, or None.

    The lock of a killed run is removed if it is certain that no run is active. Jobs that start from now on regard this
    process as their run. If this process ends because another run is active, its last line says so.

    Raises:
        FggError: the folder is not writable.
    """
    if helping():  # the run that it helps has done all this
        helped = os.environ.get(RUN, "").rpartition(":")[2]
        threading.Thread(target=_follow, args=[int(helped or os.getppid())], daemon=True).start()
        return None
    os.environ[RUN] = f"{platform.node()}:{os.getpid()}"
    atexit.register(_tell, folder)
    locks = sorted((folder / FOLDER / "locks").glob("*.lock"))
    try:
        (folder / FOLDER).mkdir(exist_ok=True)
        file = (folder / FOLDER / "fgg.lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise FggError(
            f"nothing can be written to {folder} ({error.strerror}); mend its permissions or free some space, "
            "or choose another folder with --directory"
        ) from None
    with file:
        owner = _owner(file)
        held = _try(file)
        if held is False:
            return None
        if held is None and owner.lives():  # a file system without locks: the process tells
            return None
        if locks and owner.host != platform.node():
            return (
                f"note: {folder} is locked by a run ({owner}) that cannot be looked for from here; if none is at work: "
                "snakemake --unlock, then the same command again"
            )
        for lock in locks:
            lock.unlink(missing_ok=True)
        _sign(file)
    return f"note: the last run here ({owner}) was killed; its lock is removed, and the work goes on" if locks else None


def claim(folder: Path, early: bool = False) -> None:
    """Lock the folder until this process ends.

    Args:
        early: whether Snakemake has not yet locked the folder for this process. Its locks are then those of a killed run,
            which `enter` could not remove while what helped that run was still at work.

    Raises:
        FggError: another run has locked it.
    """
    if helping():
        _begun.set()
    if _held or helping():
        return
    try:
        file = (folder / FOLDER / "fgg.lock").open("a+", encoding="utf-8")
    except OSError:
        return
    owner, held = _owner(file), _try(file)
    patience = PATIENCE
    while held is False and patience > 0 and owner.host == platform.node() and not owner.lives():
        time.sleep(STEP)  # what helped a killed run is about to end
        patience -= STEP
        held = _try(file)
    if held is None and not owner.lives() and any((folder / FOLDER / "locks").glob("*.lock")):
        file.close()  # without locks of the system, Snakemake's own decides
        return
    if held is False or (held is None and owner.lives()):
        file.close()
        atexit.unregister(_tell)
        raise FggError(BUSY.format(owner=owner, folder=folder))
    if early and held:
        for lock in sorted((folder / FOLDER / "locks").glob("*.lock")):
            lock.unlink(missing_ok=True)
    _sign(file)
    _held.append(file)


def _follow(helped: int) -> None:
    """Interrupt this process once the run that it helps is gone; end it at once if it has no jobs yet.

    Snakemake ends well when it is interrupted at its jobs, and with a traceback when it is while it reads the workflow.
    """
    while alive(helped):
        time.sleep(STEP)
    if not _begun.is_set():
        os._exit(1)
    for number in (signal.SIGINT, signal.SIGTERM):  # in the background, interruptions are ignored
        if threading.main_thread().is_alive():  # else it is about to end, and would only complain
            os.kill(os.getpid(), number)
        time.sleep(PATIENCE / 10)


def busy(folder: Path) -> bool:
    """Whether another run is at work in a folder."""
    file = folder / FOLDER / "fgg.lock"
    if not file.is_file() or _held:
        return False
    with file.open(encoding="utf-8") as lock:
        held = _try(lock)
        return held is False or (held is None and _owner(lock).lives())


def locked() -> list[int]:
    """The open files that hold this process's lock."""
    return [file.fileno() for file in _held]


def tidy(shared: Path) -> None:
    """Remove the shared files of a finished run's jobs."""
    shutil.rmtree(shared, ignore_errors=True)


def _tell(folder: Path) -> None:
    """Print, at the end of a process that has not locked the folder, which other run has."""
    if busy(folder):
        with (folder / FOLDER / "fgg.lock").open(encoding="utf-8") as file:
            print(f"note: {BUSY.format(owner=_owner(file), folder=folder)}", file=sys.stderr)


def advice(logs: str | Sequence[str]) -> str:
    """Advice after a failed run, from Snakemake's logs. Jobs whose log has no error message were killed."""
    text = "\n".join(_text(Path(log)) for log in ([logs] if isinstance(logs, str) else logs))
    silent = [
        name
        for name in dict.fromkeys(FAILED_LOG.findall(text))
        if not any(word in _text(Path(name)) for word in TELLING)
    ]
    lines = [
        "What is finished is kept, but not what a failed job was to make anew: mend the cause, and the same command goes on. "
        "See docs/troubleshooting.md."
    ]
    if silent:
        lines.append(
            f"Killed from outside, most often because the memory ran out: {', '.join(silent)}. "
            "Run fewer jobs at once (--cores), or set a smaller `batch_size`."
        )
    return "\n".join(lines)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


class _Owner:
    """The process that last held a lock file."""

    def __init__(self, host: str | None, process: int | None) -> None:
        self.host, self.process = host, process

    def lives(self) -> bool:
        """Whether it is another run, on this machine, that has not ended."""
        if self.host != platform.node() or self.process in (None, os.getpid()) or not alive(self.process):
            return False
        try:  # the number may by now be that of another program
            return b"snakemake" in Path(f"/proc/{self.process}/cmdline").read_bytes()
        except OSError:
            return True

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}" if self.host else "of unknown process"


def _owner(file: TextIO) -> _Owner:
    file.seek(0)
    try:
        record = json.loads(file.read())
        return _Owner(str(record["host"]), int(record["process"]))
    except (ValueError, LookupError, TypeError):
        return _Owner(None, None)


def _sign(file: TextIO) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps({"host": platform.node(), "process": os.getpid()}))
    file.flush()


def _try(file: TextIO) -> bool | None:
    """Try to lock the file: True if locked, False if another process holds the lock, None if locks are unsupported."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True
