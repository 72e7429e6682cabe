"""How far a run is: what a terminal shows, and what a file gets."""

from __future__ import annotations

import enum
import io
import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from terminals import Clock, Terminal

from fgg.pipeline import live_line
from fgg.pipeline.live_line import ERASE, LiveLine, RunProgress, last_steps

ROOT = Path(__file__).resolve().parents[2]
TOY = """
import sys

sys.path.insert(0, {root!r})
from snakemake.logging import logger
from fgg.pipeline import live_line


rule all:
    input:
        expand("{{number}}.txt", number=range(3)),


rule part:
    output:
        "{{number}}.txt",
    message:
        "Making part {{wildcards.number}}"
    shell:
        "sleep 0.3; touch {{output}}"


onstart:
    live_line.begin(logger, (job.rule.name for job in workflow.dag.needrun_jobs()), workflow.output_settings.quiet or ())


onsuccess:
    live_line.end()
    print("the end", file=sys.stderr)
"""


class Event(enum.Enum):
    """Snakemake's kinds of messages, as far as they matter."""

    JOB_INFO = "job_info"
    JOB_FINISHED = "job_finished"
    JOB_ERROR = "job_error"


def tell(line: LiveLine, event: Event, **more) -> None:
    """Give a message of Snakemake's to the line."""
    record = logging.LogRecord("snakemake", logging.INFO, "", 0, "", (), None)
    record.__dict__.update(event=event, **more)
    line.emit(record)


def start(line: LiveLine, number: int, rule: str = "score", logs: tuple[str, ...] = ()) -> None:
    tell(line, Event.JOB_INFO, jobid=number, rule_name=rule, rule_msg=f"Doing {rule} {number}", log=logs)


def test_the_estimate_takes_each_rule_at_its_own_pace():
    run = RunProgress({"train": 1, "score": 4, "plot": 1}, begun=0.0)
    assert run.left(5.0) is None, "nothing has finished"
    run.running[1] = live_line.Job("train", "", [], 0.0)
    run.end(1, 60.0, done=True)
    run.running[2] = live_line.Job("score", "", [], 60.0)
    run.end(2, 70.0, done=True)
    assert run.done == 2
    # One job at a time: three scores of 10 s, and a plot of the mean, 35 s.
    assert run.left(70.0) == pytest.approx(3 * 10 + 35)
    run.running[3] = live_line.Job("score", "", [], 70.0)
    assert run.left(74.0) == pytest.approx(2 * 10 + 6 + 35)


def test_jobs_side_by_side_end_sooner():
    run = RunProgress({"score": 8}, begun=0.0)
    for number in range(2):
        run.running[number] = live_line.Job("score", "", [], 0.0)
    for number in range(2):
        run.end(number, 10.0, done=True)
    assert run.left(10.0) == pytest.approx(6 * 10 / 2)


def test_the_line_says_jobs_rate_time_left_and_what_is_at_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clock, out = Clock(), Terminal()
    line = LiveLine({"score": 3}, out, clock)
    start(line, 1)
    clock.now += 30
    tell(line, Event.JOB_FINISHED, job_id=1)
    Path("score.log").write_text("scores: 15 of 60 images (25 %), 3 images/s, 15 s left\nsomething else\n")
    start(line, 2, logs=("score.log",))
    start(line, 3)
    clock.now += 10
    assert line.progress.text(clock.now) == (
        "1 of 3 jobs (33 %), 1.5 jobs/min, about 32 s left | "
        "Doing score 2 (and 1 more): 15 of 60 images (25 %), 3 images/s, 15 s left"
    )


def test_a_failed_job_is_not_done_and_may_come_back():
    line = LiveLine({"score": 2}, Terminal(), Clock())
    start(line, 1)
    tell(line, Event.JOB_ERROR, jobid=1)
    assert not line.progress.running and not line.progress.done
    start(line, 1)
    tell(line, Event.JOB_FINISHED, job_id=1)
    assert line.progress.done == 1


def test_messages_scroll_above_the_line():
    out = Terminal()
    line = LiveLine({"score": 1}, out, Clock())
    start(line, 1)
    shown = out.getvalue()
    assert shown == f"{ERASE}0 of 1 jobs (0 %) | Doing score 1"
    line.write("a message\n")
    assert out.getvalue() == f"{shown}{ERASE}a message\n"
    line.write("half a mess")
    line._draw()
    assert out.getvalue().endswith(f"{ERASE}a message\nhalf a mess"), "not into the middle of a message"
    line.write("age\n")
    line.end()
    line._draw()
    assert out.getvalue().endswith("half a message\n")


def test_the_line_fits_the_terminal():
    out = Terminal()
    line = LiveLine({"score": 1}, out, Clock())
    start(line, 1, rule="s" * 200)
    assert len(out.getvalue().removeprefix(ERASE)) == 79


def test_a_file_gets_a_plain_line_a_minute():
    clock, out = Clock(), io.StringIO()
    line = LiveLine({"score": 10}, out, clock)
    for number in range(9):
        start(line, number)
        clock.now += 25
        tell(line, Event.JOB_FINISHED, job_id=number)
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue() and "\r" not in out.getvalue()
    assert lines[0] == "3 of 10 jobs (30 %), 2.4 jobs/min, about 2:55 min left" and len(lines) == 3


def test_no_log_no_steps(tmp_path):
    (tmp_path / "other.log").write_text("error: none\n")
    assert last_steps([str(tmp_path / "none.log"), str(tmp_path / "other.log")]) == ""


@pytest.mark.parametrize("quiet", [(), {"progress"}], ids=["loud", "quiet"])
def test_another_logger_or_a_quiet_run_keeps_its_output(quiet):
    logger = logging.Logger("of a run")
    handler = logging.StreamHandler(Terminal())
    handler.name = "another plugin" if not quiet else live_line.STREAM
    logger.addHandler(handler)
    live_line.begin(logger, ["score"], quiet)
    assert logger.handlers == [handler] and isinstance(handler.stream, Terminal)
    live_line.end()


def snakemake(folder: Path, *options: str, terminal: bool) -> tuple[str, int]:
    """Run a toy workflow; its standard error and its status."""
    (folder / "Snakefile").write_text(TOY.format(root=str(ROOT)))
    words = [sys.executable, "-m", "snakemake", "--cores", "1", *options]
    if not terminal:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
        return done.stderr, done.returncode
    own, other = pty.openpty()
    with subprocess.Popen(words, cwd=folder, stderr=other, stdout=subprocess.DEVNULL) as process:
        os.close(other)
        said = b""
        try:
            while piece := os.read(own, 4096):
                said += piece
        except OSError:  # the other end is closed
            pass
        os.close(own)
        return said.decode(), process.wait()


def test_snakemake_on_a_terminal(tmp_path):
    said, status = snakemake(tmp_path, terminal=True)
    assert status == 0
    assert "2 of 4 jobs (50 %)" in said and "left | Making part" in said
    assert said.rstrip().endswith("the end") or "the end" in said.rsplit(ERASE, 1)[1], "the line is gone before the end"
    assert "3 of 4 steps (75%) done" in said.replace(ERASE, ""), "Snakemake's own lines are there"


def test_snakemake_without_a_terminal_or_quiet(tmp_path):
    said, status = snakemake(tmp_path, terminal=False)
    assert status == 0 and "steps (75%) done" in said and "jobs/min" not in said and "\x1b" not in said
    for made in tmp_path.glob("*.txt"):
        made.unlink()
    said, status = snakemake(tmp_path, "--quiet", "progress", terminal=True)
    assert status == 0 and "jobs/min" not in said and ERASE not in said
