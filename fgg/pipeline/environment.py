"""The machine that jobs run on, and the resources that they request. Does not import torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def accelerators(device: str, local: bool) -> int:
    """The number of GPUs that a job requests: 0 if the models run on the CPU, so that jobs run in parallel.

    Args:
        device: the configuration's ``device``; ``auto`` requests a GPU if this machine has one.
        local: whether jobs run on this machine; the nodes of a cluster are assumed to have a GPU.
    """
    if device == "auto":
        present = any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/kfd"))
        return int(present or not local)
    return int(device == "cuda")


def doubled(first: int) -> Callable[..., int]:
    """A resource for Snakemake, as a function that doubles the amount with every further attempt."""

    def of(wildcards: Any, attempt: int) -> int:
        return first * 2 ** (attempt - 1)

    return of


def use_environment(folder: str) -> None:
    """Let jobs run in the environment of Snakemake, and find the package from any working folder.

    Threads that wait for each other sleep after a short time instead of spinning: two spinning threads on cores that
    were also used by others took six times as long. The log of each job ends with its start-up time.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # some tens of microseconds, the time between two operations
    os.environ.setdefault("FGG_TIMING", "1")
    python, inherited = str(Path(sys.executable).parent), os.environ.get("PYTHONPATH")
    os.environ["PATH"] = os.pathsep.join([python, os.environ.get("PATH", os.defpath)])
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, *([inherited] if inherited else [])])


def add_to_path(folder: Path) -> None:
    """Let jobs import modules from a folder, which is searched after the existing paths."""
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    installed = any(Path(place).resolve() == folder for place in sys.path if "-packages" in place)
    if str(folder) not in known and not installed:
        os.environ["PYTHONPATH"] = os.pathsep.join([*filter(None, known), str(folder)])
