"""The machine that jobs run on, and what they ask of it. Imports no torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def accelerators(device: str, local: bool) -> int:
    """The GPUs that a job asks for: none where the models run on the CPU, so that its jobs run side by side.

    Args:
        device: the configuration's ``device``; ``auto`` asks for a GPU when this machine has one.
        local: whether jobs run on this machine; a cluster's nodes are taken to have one.
    """
    if device == "auto":
        present = any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/kfd"))
        return int(present or not local)
    return int(device == "cuda")


def doubled(first: int) -> Callable[..., int]:
    """A resource that every further attempt asks twice as much of, as Snakemake wants it: a function."""

    def of(wildcards: Any, attempt: int) -> int:
        return first * 2 ** (attempt - 1)

    return of


def use_environment(folder: str) -> None:
    """Let jobs run in the environment that Snakemake runs in, and find the package from any working folder.

    Threads that wait for each other soon sleep instead of spinning: two spinning threads on cores that something else
    uses too were seen to take six times as long. Each job's log ends with what its start cost.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # some tens of microseconds, the gap between two operations
    os.environ.setdefault("FGG_TIMING", "1")
    python, inherited = str(Path(sys.executable).parent), os.environ.get("PYTHONPATH")
    os.environ["PATH"] = os.pathsep.join([python, os.environ.get("PATH", os.defpath)])
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, *([inherited] if inherited else [])])


def add_to_path(folder: Path) -> None:
    """Let jobs import modules from a folder, after what they find already."""
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    installed = any(Path(place).resolve() == folder for place in sys.path if "-packages" in place)
    if str(folder) not in known and not installed:
        os.environ["PYTHONPATH"] = os.pathsep.join([*filter(None, known), str(folder)])
