"""Progress of long loops on standard error: a bar on a terminal, occasional whole lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

SECONDS = 15.0  # minimum time between two lines in a log
SHARE = 0.02  # the same, as a share of the elapsed time, so that long jobs do not fill their logs
MEGABYTE = 1e6


class Progress:
    """Counts finished work; reports its amount, its rate and the time left.

    Args:
        steps: what iteration goes over, one unit of work each; work can also be reported with `update`.
        total: units of work; 0 if unknown, or not known yet.
        what: name of the work.
        unit: in the singular; ``byte`` is shown in megabytes.
        stream: where to write; None means the current standard error.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        steps: Iterable[Any],
        total: int,
        what: str,
        unit: str = "image",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.steps, self.what, self.unit = steps, what, unit
        self.done, self._total = 0, total
        self._stream, self._clock = stream or sys.stderr, clock
        self._start = self._spoke = clock()
        self._bar: Any = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=total or None, desc=what, unit=f" {unit}s" if unit != "byte" else "B", unit_scale=unit == "byte",
                file=self._stream, mininterval=0.2, dynamic_ncols=True,
            )  # fmt: skip

    @property
    def total(self) -> int:
        """Units of work; 0 if unknown."""
        return self._total

    @total.setter
    def total(self, units: int) -> None:
        """Set the total later, if it is not known at the start."""
        self._total = units
        if self._bar is not None:
            self._bar.total = units
            self._bar.refresh()

    def update(self, units: int = 1) -> None:
        """Report the units finished since the last call."""
        self.done += units
        if self._bar is not None:
            self._bar.update(units)
            return
        now = self._clock()
        if now - self._spoke >= max(SECONDS, SHARE * (now - self._start)) and (
            self.done < self.total or not self.total
        ):
            self._spoke = now
            self._say(now - self._start)

    def __iter__(self) -> Iterator[Any]:
        with self:
            for step in self.steps:
                yield step
                self.update()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._say(self._clock() - self._start, last=True)

    def _say(self, seconds: float, last: bool = False) -> None:
        rate = self.done / seconds if seconds > 0 else 0.0
        speed = f"{self._count(rate, '.3g' if rate < 100 else '.0f')}/s"
        if last:
            text = f"{self.what}: {self._count(self.done)} in {duration(seconds)}" + (f", {speed}" if rate else "")
        elif not self.total:
            text = f"{self.what}: {self._count(self.done)}, {speed}"
        else:
            share = f"{100 * self.done / self.total:.0f} %"
            left = f", {duration((self.total - self.done) / rate)} left" if rate else ""
            text = f"{self.what}: {self._number(self.done)} of {self._count(self.total)} ({share}), {speed}{left}"
        print(text, file=self._stream, flush=True)

    def _number(self, value: float, form: str = "") -> str:
        if self.unit == "byte":
            return f"{value / MEGABYTE:.1f}"
        return format(value, form)

    def _count(self, value: float, form: str = "") -> str:
        return f"{self._number(value, form)} {'MB' if self.unit == 'byte' else self.unit + 's'}"


def progress(steps: Iterable[Any], total: int, what: str, unit: str = "image") -> Progress:
    """Progress of a loop over ``steps``; for work in chunks, use ``with … as bar`` and ``bar.update(n)``."""
    return Progress(steps, total, what, unit)


def batches(count: int, size: int, what: str) -> Iterator[slice]:
    """Slices of up to ``size`` from 0 to ``count``, with progress in images."""
    with progress([], count, what) as bar:
        for start in range(0, count, size):
            stop = min(start + size, count)
            yield slice(start, stop)
            bar.update(stop - start)


def duration(seconds: float) -> str:
    """Format seconds with a suitable precision: 8.2 s, 3:05 min, 2:04 h."""
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60) if seconds >= 3599.5 else 0
    if minutes:
        return f"{minutes // 60}:{minutes % 60:02d} h"
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d} min"
