"""The machine that jobs run on, and the resources that they request. Does not import torch."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fgg.errors import FggError


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


def cards(devices: Path = Path("/dev")) -> int:
    """The number of NVIDIA GPUs of this machine that programs may see, without asking CUDA."""
    present = sum(re.fullmatch(r"nvidia\d+", node.name) is not None for node in devices.glob("nvidia*"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    shown: list[str] = []
    for name in filter(None, map(str.strip, visible.split(","))):
        if name == "-1":  # CUDA shows what stands before it
            break
        shown.append(name)
    return len(set(shown)) if present else 0


def about_cards(asked: int | None, present: int) -> str | None:
    """A note about a number of GPU jobs at once that does not fit the number of GPUs; None if it fits.

    Args:
        asked: ``gpu`` of ``--resources``, None if it is not given.
        present: the number of GPUs of this machine.
    """
    if asked is None and present > 1:
        return f"note: this machine has {present} GPUs, and one job at a time uses one; all at once: --resources=gpu={present}"
    if asked is not None and 0 < present < asked:
        return f"note: --resources=gpu={asked}, but this machine has {present}; jobs beyond that share one"
    return None


def doubled(first: int) -> Callable[..., int]:
    """A resource for Snakemake, as a function that doubles the amount with every further attempt."""

    def of(wildcards: Any, attempt: int) -> int:
        return first * 2 ** (attempt - 1)

    return of


def use_environment(folder: str | None) -> None:
    """Let jobs run in the environment of Snakemake, and find the package from any working folder.

    Threads that wait for each other sleep after a short time instead of spinning: two spinning threads on cores that
    were also used by others took six times as long. The log of each job ends with its start-up time. Files and output of
    jobs are UTF-8 in every locale.

    Args:
        folder: from which the package is imported; None if it is installed in the environment.

    Raises:
        FggError: the folder's name cannot be passed on.
    """
    if folder and os.pathsep in folder:
        raise FggError(
            f"the repository lies in {folder}, but {os.pathsep!r} separates folders in PYTHONPATH; rename the folder"
        )
    os.environ["PYTHONUTF8"] = "1"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # some tens of microseconds, the time between two operations
    os.environ.setdefault("FGG_TIMING", "1")
    python, inherited = str(Path(sys.executable).parent), os.environ.get("PYTHONPATH")
    os.environ["PATH"] = os.pathsep.join([python, os.environ.get("PATH", os.defpath)])
    if folder:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, inherited]))


def add_to_path(folder: Path) -> None:
    """Let jobs import modules from a folder, which is searched after the existing paths."""
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    installed = any(Path(place).resolve() == folder for place in sys.path if "-packages" in place)
    if str(folder) not in known and not installed:
        os.environ["PYTHONPATH"] = os.pathsep.join([*filter(None, known), str(folder)])


def writable(path: Path) -> bool:
    """Whether a file or folder can be made or changed, as far as permissions and the kind of mount tell."""
    place = path
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if place.is_dir():
        return os.access(place, os.W_OK | os.X_OK)
    return place == path and os.access(place, os.W_OK)


def check_outputs(paths: Iterable[str | Path]) -> None:
    """Check, before jobs run, that the places in which they write are folders and can be written.

    Args:
        paths: the files that the jobs will write, relative to the working folder.

    Raises:
        FggError: names the first place in which nothing can be written.
    """
    for folder in sorted({Path(path).parent for path in paths}):
        check_folders([folder])
        place = folder
        while not place.exists():
            place = place.parent
        if not writable(place):
            raise FggError(
                f"nothing can be written to {place}, where jobs would write; fix its permissions, or choose another folder "
                "with --directory"
            )


def check_folders(paths: Iterable[str | Path]) -> None:
    """Check that nothing else lies where folders are needed; those that do not exist are made later.

    Raises:
        FggError: names what is in the way.
    """
    for path in paths:
        place = Path(path)
        while not os.path.lexists(place):
            place = place.parent
        if not place.is_dir():
            raise FggError(f"{place} is {_what(place)}, but a folder is needed; move it away, or choose --directory")


def _what(path: Path) -> str:
    return "a link that leads nowhere" if path.is_symlink() and not path.exists() else "a file"
