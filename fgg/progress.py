"""Progress of long loops: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress(steps: Iterable[Any], total: int, what: str, unit: str = "image") -> tqdm:
    """Wrap a loop; rate and remaining time go to standard error."""
    terminal = sys.stderr.isatty()
    return tqdm(steps, total=total, desc=what, unit=unit, mininterval=0.2 if terminal else 15, ascii=not terminal)


def batches(count: int, size: int, what: str) -> Iterable[slice]:
    """Slices of up to ``size`` from 0 to ``count``, with progress in images."""
    with progress([], count, what) as bar:
        for start in range(0, count, size):
            stop = min(start + size, count)
            yield slice(start, stop)
            bar.update(stop - start)
