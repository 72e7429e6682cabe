"""The command ``fgg``; its parts load what they need when they are called."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator

from fgg import __version__
from fgg.attribution.registry import methods
from fgg.explain.command import add_explain, explain
from fgg.faithfulness.registry import metrics
from fgg.jobs.command import command
from fgg.pipeline.start import add_run, own_words, run
from fgg.share.command import add_share, share


@command
def main(argv: list[str] | None = None) -> None:
    """Run the part that is named, or show the help."""
    parser = _parser()
    words = list(sys.argv[1:] if argv is None else argv)
    words, rest = own_words(words) if words[:1] == ["run"] else (words, [])
    arguments = parser.parse_args(words)
    if arguments.part is None:
        parser.print_help()
        return
    try:
        if arguments.part == "explain":
            explain(arguments)
        elif arguments.part == "share":
            share(arguments)
        elif arguments.part == "run":
            run(arguments, rest)
        elif arguments.part == "bench":
            from fgg.bench.__main__ import main as bench

            sys.exit(bench(arguments.options))
        else:
            print("\n".join(LISTS[arguments.part]()))
        if sys.stdout is not None:  # closed, such as by >&-
            sys.stdout.flush()
    except BrokenPipeError:  # such as `fgg explain … | head`: who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fgg",
        description="Are Vision Transformer explanations more faithful when gated with sparse autoencoder features?",
        epilog="The experiments run with `fgg run`, `make results`, or Snakemake itself; see the README.",
    )
    parser.add_argument("--version", action="version", version=f"fgg {__version__}")
    parts = parser.add_subparsers(dest="part", metavar="COMMAND", title="commands")
    add_explain(parts)
    add_run(parts)
    add_share(parts)
    bench = parts.add_parser(
        "bench", help="measure speed on this machine, against its limit and other libraries",
        description="Measure speed on this machine; see python -m fgg.bench --help for the options.", add_help=False,
    )  # fmt: skip
    bench.add_argument("options", nargs=argparse.REMAINDER)
    parts.add_parser("methods", help="list the attribution methods", description="List the attribution methods.")
    parts.add_parser("metrics", help="list the faithfulness metrics", description="List the faithfulness metrics.")
    return parser


def list_methods() -> Iterator[str]:
    """Lines about every attribution method: its name, where it comes from, what it assumes and costs."""
    for name, entry in methods().items():
        yield f"{name:<34}{entry.title}: {entry.citation}"
        if entry.assumes:
            yield f"{'':<34}assumes: {entry.assumes}"
        yield f"{'':<34}{entry.cost}"
        if entry.gateable:
            yield f"{'':<34}can be gated"


def list_metrics() -> Iterator[str]:
    """Lines about every metric: its name, where it comes from, its direction and range, what it assumes and costs."""
    for name, entry in metrics().items():
        yield f"{name:<34}{entry.title}: {entry.citation}"
        yield f"{'':<34}{entry.definition} {entry.direction}; {entry.quantity}"
        yield f"{'':<34}assumes: {entry.assumes}"
        yield f"{'':<34}forward passes: {entry.passes}"


LISTS = {"methods": list_methods, "metrics": list_metrics}


if __name__ == "__main__":
    sys.exit(main())
