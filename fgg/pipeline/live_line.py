"""How far a run is: a line at the bottom of a terminal, or a plain line each minute elsewhere. Does not import torch.

Snakemake's own messages stay as they are. On a terminal they scroll above the line; with ``--quiet`` there is no line.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from fgg.progress import duration

ERASE = "\r\x1b[K"  # to the start of the line, and clear it
PLAIN_SECONDS = 60.0  # between two plain lines
TICK = 1.0  # seconds between two looks at the jobs
UNKNOWN_WIDTH = 80  # columns of a terminal that does not tell
TAIL = 4096  # bytes of a log in which its last progress line is looked for
STEPS = re.compile(r"(?m)^[^:\n]+: (\d[\d.]* of \d.*/s.*)$")  # see fgg.progress
_lines: list[LiveLine] = []  # that of the run
STREAM = "DefaultStreamHandler"  # Snakemake's name of what prints its messages


@dataclass
class Job:
    """A job at work: its rule, its message, its logs, and when it began."""

    rule: str
    message: str
    logs: list[str]
    begun: float


@dataclass
class RunProgress:
    """What a run has done so far.

    Attributes:
        planned: rule -> number of jobs.
        begun: when the run began, in seconds.
        running: number of a job -> the job.
        seconds: rule -> the seconds that its finished jobs took.
    """

    planned: Mapping[str, int]
    begun: float
    running: dict[int, Job] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def end(self, number: int, now: float, done: bool) -> None:
        """Note that a job has finished, or else failed."""
        job = self.running.pop(number, None)
        if job and done:
            self.seconds.setdefault(job.rule, []).append(now - job.begun)

    @property
    def done(self) -> int:
        """The number of finished jobs."""
        return sum(map(len, self.seconds.values()))

    def left(self, now: float) -> float | None:
        """An estimate of the seconds until the run ends; None before a job has finished.

        The jobs to come take as long as those of their rule did, or as all did if none of the rule has finished, and as many
        run at once as did so far.
        """
        known = [each for own in self.seconds.values() for each in own]
        active = sum(now - job.begun for job in self.running.values())
        if not known or sum(known) + active <= 0 or now <= self.begun:
            return None
        usual = {rule: sum(own) / len(own) for rule, own in self.seconds.items()}
        mean = sum(known) / len(known)
        at_work = Counter(job.rule for job in self.running.values())
        work = 0.0
        for rule, number in self.planned.items():
            waiting = number - len(self.seconds.get(rule, ())) - at_work[rule]
            work += max(waiting, 0) * usual.get(rule, mean)
        work += sum(max(usual.get(job.rule, mean) - (now - job.begun), 0.0) for job in self.running.values())
        return work * (now - self.begun) / (sum(known) + active)

    def text(self, now: float) -> str:
        """The line: jobs, rate, time left, and what has run longest."""
        total, passed = sum(self.planned.values()), now - self.begun
        parts = [f"{self.done} of {total} jobs ({100 * self.done // max(total, 1)} %)"]
        if self.done and passed > 0:
            parts.append(f"{_rate(60 * self.done / passed)} jobs/min")
        if (left := self.left(now)) is not None and self.done < total:
            parts.append(f"about {duration(left)} left")
        text = ", ".join(parts)
        if not self.running:
            return text
        first, *others = sorted(self.running.values(), key=lambda job: job.begun)
        steps = last_steps(first.logs)
        more = f" (and {len(others)} more)" if others else ""
        return f"{text} | {first.message}{more}" + (f": {steps}" if steps else "")


def _rate(value: float) -> str:
    return format(value, ".3g" if value < 100 else ".0f")


def last_steps(logs: Iterable[str]) -> str:
    """What the last line of progress in a job's logs says; empty if there is none."""
    for log in logs:
        try:
            with Path(log).open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - TAIL, 0))
                found = STEPS.findall(file.read().decode("utf-8", "replace"))
        except OSError:  # not yet there
            continue
        if found:
            return found[-1]
    return ""


class LiveLine(logging.Handler):
    """Follows Snakemake's messages and shows the progress of its run.

    Args:
        planned: rule -> number of jobs.
        stream: where Snakemake's messages go.
        clock: returns the time in seconds.
    """

    def __init__(self, planned: Mapping[str, int], stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.progress = RunProgress(planned, clock())
        self._below, self._clock = stream, clock
        self._live = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._said = self.progress.begun
        self._shown, self._fresh = "", True  # the line on the terminal; whether the cursor is at the start of a line
        self._writing = threading.RLock()
        self._ended = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Take in one of Snakemake's messages."""
        event, now = getattr(record, "event", None), self._clock()
        own: Any = record.__dict__
        with self._writing:
            name = getattr(event, "value", event)
            if name == "job_info":
                message = own.get("rule_msg") or own["rule_name"]
                self.progress.running[own["jobid"]] = Job(own["rule_name"], message, list(own.get("log") or ()), now)
            elif name in ("job_finished", "job_error"):
                number = own.get("job_id", own.get("jobid"))
                self.progress.end(number, now, done=name == "job_finished")
                if not self._live and now - self._said >= PLAIN_SECONDS:
                    self._said = now
                    print(self.progress.text(now), file=self._below, flush=True)
            self._draw()

    def write(self, text: str) -> int:
        """Write a message of Snakemake's above the line."""
        with self._writing:
            self._erase()
            written = self._below.write(text)
            self._fresh = text.endswith("\n")
            return written

    def flush(self) -> None:
        """Write what is held back."""
        self._below.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)  # what else a stream can do

    def begin(self, follow: logging.Logger, printing: logging.StreamHandler) -> None:
        """Follow a logger, and put the line below what a handler of it prints."""
        follow.addHandler(self)
        if self._live:
            printing.setStream(self)  # type: ignore[type-var]
            threading.Thread(target=self._tick, daemon=True).start()
            atexit.register(self.end)

    def end(self) -> None:
        """Remove the line for good."""
        with self._writing:
            self._ended.set()
            self._erase()
            self._below.flush()

    def _tick(self) -> None:
        while not self._ended.wait(TICK):
            try:
                self._draw()
            except (OSError, ValueError):  # the terminal is gone
                return

    def _draw(self) -> None:
        with self._writing:
            if not self._live or self._ended.is_set() or not self._fresh:
                return
            text, width = self.progress.text(self._clock()), _width(self._below) - 1
            text = text if len(text) <= width else f"{text[: width - 1]}…"
            if text != self._shown:
                self._below.write(ERASE + text)
                self._below.flush()
                self._shown = text

    def _erase(self) -> None:
        if self._shown:
            self._below.write(ERASE)
            self._shown = ""


def _width(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or UNKNOWN_WIDTH
    except (OSError, ValueError):
        return UNKNOWN_WIDTH


def begin(logger: logging.Logger, rules: Iterable[str], quiet: Collection[Any]) -> None:
    """Show the progress of a run, unless its user wants it quiet or another logger of Snakemake prints.

    Args:
        logger: Snakemake's.
        rules: the rule of every job that will run.
        quiet: what Snakemake is not to print.
    """
    printing = [own for own in logger.handlers if own.name == STREAM and isinstance(own, logging.StreamHandler)]
    if printing and not quiet:
        _lines.append(LiveLine(Counter(rules), printing[0].stream))
        _lines[-1].begin(logger, printing[0])


def end() -> None:
    """Remove the line of the run, if it has one."""
    while _lines:
        _lines.pop().end()
