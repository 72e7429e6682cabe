"""The reference of the commands: what each prints with --help."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
from collections.abc import Iterator

from fgg import cli

HEAD = """# Commands

What each command prints with `--help`. In a clone in which fgg is not installed, `python -m fgg` stands for `fgg`.
[Explaining single images](../explain.md), [sharing](../sharing.md) and [executors](../executors.md) show them at work.
`make results`, `make test`, `make check`, `make bench` and `make docs` are the short ways in a clone.
"""
BENCH = "fgg bench"
WIDTH = "86"  # columns of the help texts, whatever the terminal


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Each command with its parser: ``fgg``, and the commands below it."""
    top = cli._parser()
    yield "fgg", top
    (below,) = [action for action in top._actions if isinstance(action, argparse._SubParsersAction)]
    for name, parser in below.choices.items():
        yield f"fgg {name}", parser


def _bench_help() -> str:
    """The help of the benchmarks, which have a command of their own."""
    from fgg.bench.__main__ import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main(["--help"])
    return said.getvalue()


def _block(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"


def command_page() -> str:
    """The page, as Markdown."""
    parts = [HEAD]
    before, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), WIDTH
    try:
        for name, parser in parsers():
            parts += [f"## `{name}`", _block(_bench_help() if name == BENCH else parser.format_help())]
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before
    return "\n\n".join(parts) + "\n"
