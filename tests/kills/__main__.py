"""Kill a small run of the workflow at random moments, until a time or a number of kills is reached.

    python -m tests.kills --minutes 10 --seed 1

Ends with status 1, and keeps the folder, if a run does not go on by the same command, if its files differ by a byte from
those of a run that nobody killed, or if anything is left over. Do not edit the code meanwhile: its hash decides what runs.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests import pictures, whole_workflow
from tests.kills import files
from tests.kills.harness import Harness

SMALL = Path(__file__).resolve().parents[1] / "faults" / "small.yaml"


def undisturbed(folder: Path, target: str) -> dict[str, str]:
    """The content of a folder in which the run was not disturbed."""
    pictures.draw(folder / "pictures", per_class=8, side=16)
    whole_workflow.snakemake(folder, "--cores", "2", target, configs=[SMALL])
    return files.content(folder)


def main(argv: list[str] | None = None) -> int:
    """Parse the arguments, kill, and print what happened."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="when to stop; default: at the kills")
    parser.add_argument("--kills", type=float, default=float("inf"), help="how many; default: until the time is over")
    parser.add_argument("--seed", type=int, default=0, help="of what is killed, when, and how")
    parser.add_argument("--every", type=float, help="mean seconds until the next kill; default: a 40th of a run")
    parser.add_argument("--target", default="results/summary.csv", help="file to make")
    parser.add_argument("--folder", type=Path, help="empty or new folder to work in; default: a temporary one")
    parser.add_argument("--keep", action="store_true", help="keep the folder even if all is well")
    given = parser.parse_args(argv)
    if min(given.minutes, given.kills) == float("inf"):
        given.minutes = 10.0
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background, also by all processes below
    folder = given.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} is not empty; choose another folder")
    folder = folder.resolve()
    print(f"works in {folder}, seed {given.seed}; first a run that is not disturbed", flush=True)
    started = time.monotonic()
    expected = undisturbed(folder / "undisturbed", given.target)
    whole = time.monotonic() - started
    print(f"it took {whole:.0f} s and made {len(expected)} files", flush=True)
    pictures.draw(folder / "killed" / "pictures", per_class=8, side=16)
    started = time.monotonic()
    harness = Harness(
        folder / "killed",
        [SMALL],
        expected,
        random.Random(given.seed),
        target=given.target,
        every=given.every or whole / 40,
        tell=lambda line: print(f"{time.monotonic() - started:7.1f} s {line}", flush=True),
    )
    fault = ""
    try:
        harness.go(given.kills, given.minutes * 60)
    except AssertionError as error:
        fault = str(error)
    seconds = time.monotonic() - started
    print(harness.summary())
    print(f"{seconds:.0f} s, {seconds / max(len(harness.kills), 1):.1f} s per kill")
    if fault:
        print(f"FAULT: {fault}\nthe folder is kept: {folder}")
        return 1
    print("no difference, nothing left over")
    if not given.keep:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
