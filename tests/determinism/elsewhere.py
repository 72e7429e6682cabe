"""Run commands of the package, which come as JSON on standard input, as another machine would at another time.

Folders are listed in a random order, the clock is twenty years behind, one core may be used, and the default encoding is
that of the environment. Prints how many listings came in another order than that of their names.
"""

from __future__ import annotations

import os
import random
import time

DRAW = random.Random(1)
YEARS = 20 * 365.25 * 86400
shuffled = 0


def mix(names: list) -> list:
    """The entries of a folder in a random order."""
    global shuffled
    mixed = DRAW.sample(names, len(names))
    shuffled += mixed != sorted(mixed, key=os.fspath)
    return mixed


class Scan:
    """What `os.scandir` gives, in a random order."""

    def __init__(self, entries: list) -> None:
        self._entries = iter(entries)

    def __iter__(self):
        return self._entries

    def __next__(self):
        return next(self._entries)

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is open any more."""


def disturb() -> None:
    """Change what a program sees of the machine. Comes before other modules are imported, which keep what they import."""
    listdir, scandir, now, now_ns = os.listdir, os.scandir, time.time, time.time_ns

    def scan(path="."):
        with scandir(path) as entries:
            return Scan(mix(list(entries)))

    os.listdir, os.scandir = (lambda path=".": mix(listdir(path))), scan
    time.time, time.time_ns = (lambda: now() - YEARS), (lambda: now_ns() - int(YEARS * 1e9))
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


if __name__ == "__main__":
    disturb()
    import json
    import runpy
    import sys

    for module, *arguments in json.load(sys.stdin):
        sys.argv = [module, *arguments]
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            assert not end.code, (module, end.code)
    print(f"{shuffled} folders in another order")
