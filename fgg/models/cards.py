"""Which GPU a process works on, where a machine has several: the one with the fewest other processes of fgg.

A process that wants a GPU takes a token, a lock of the operating system on a file for each card and place in its queue, and
keeps it until it ends. A lock ends with its process however that ends, so nothing stale can remain. The files lie in a folder
of the user for all runs on this machine; runs of other users are not seen.

Only the cards that CUDA shows are candidates: ``CUDA_VISIBLE_DEVICES``, which may name numbers, UUIDs and MIG instances,
is respected, and in a job of a scheduler that leaves one card visible there is nothing to choose. The choice changes no table.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import torch

MOST_BESIDE = 64  # processes on one card that are told apart
PATIENCE, STEP = 10.0, 0.01  # seconds that one waits for another process to choose, and between two looks


class _Taken:
    """The token of this process; a forked process has none yet."""

    process: int | None = None
    card = 0
    token: TextIO | None = None


def identities() -> list[str]:
    """A name for each visible card that is the same in every process, however the card is made visible."""
    names = []
    for number in range(torch.cuda.device_count()):
        found = getattr(torch.cuda.get_device_properties(number), "uuid", None)
        names.append(str(found) if found else f"number-{number}")
    return names


def choose() -> int:
    """The number of the card that this process works on, as CUDA counts the visible ones; the same at every call.

    Where all cards are in use, the least used one is shared, and a line on standard error says with whom. Where tokens
    cannot be taken, the number of the process decides.
    """
    if _Taken.process != os.getpid():
        cards = identities()
        _Taken.token = None
        _Taken.card = _take(cards) if len(cards) > 1 else 0
        _Taken.process = os.getpid()
    return _Taken.card


def _take(cards: Sequence[str]) -> int:
    try:
        folder = runtime_folder()
        with (folder / "choosing").open("a") as choosing:  # one process at a time chooses
            _wait_for(choosing)
            used = [_users(folder, card) for card in cards]
            number = min(range(len(cards)), key=lambda number: (len(used[number]), number))
            _Taken.token = _free_place(folder, cards[number])
    except OSError as error:
        number = os.getpid() % len(cards)
        print(
            f"note: no token for a GPU can be taken ({error.strerror or error}); this process takes GPU {number} of "
            f"{len(cards)}, which others may use too",
            file=sys.stderr,
        )
        return number
    if used[number]:
        others = ", ".join(used[number])
        print(
            f"note: all {len(cards)} GPUs are in use; this process shares GPU {number} with {others}. As many jobs as there "
            f"are GPUs: --resources=gpu={len(cards)}",
            file=sys.stderr,
        )
    return number


def runtime_folder() -> Path:
    """The user's folder of tokens on this machine. Raises OSError: it cannot be made, or belongs to somebody else."""
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given and os.access(given, os.W_OK | os.X_OK):
        folder = Path(given) / "fgg-gpus"
    else:
        folder = Path(tempfile.gettempdir()) / f"fgg-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(0, f"{folder} belongs to another user")
    return folder


def _wait_for(file: TextIO) -> None:
    """Lock a file, for as long as it is open. Raises OSError: another process holds it all the time, or locks do not exist."""
    until = time.monotonic() + PATIENCE
    while not _locked(file):
        if time.monotonic() > until:
            raise TimeoutError(0, "another process does not end its choice")
        time.sleep(STEP)


def _locked(file: TextIO) -> bool:
    """Try to lock a file; whether that worked. Raises OSError: the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _users(folder: Path, card: str) -> list[str]:
    """The processes that hold a token of a card, in words."""
    found = []
    for path in sorted(folder.glob(f"{card}.*")):
        with path.open("a+") as file:
            if not _locked(file):
                file.seek(0)
                found.append(f"process {file.read().strip() or 'unknown'}")
    return found


def _free_place(folder: Path, card: str) -> TextIO:
    """Take the first free token of a card. Raises OSError: there is none."""
    for place in range(MOST_BESIDE):
        # Children that start other programs do not inherit the file, so they cannot keep the token of a killed parent.
        file = (folder / f"{card}.{place}").open("a+")
        if _locked(file):
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            return file
        file.close()
    raise OSError(0, f"{MOST_BESIDE} processes use the GPU")
