"""Check whether the run that a job belongs to still exists. Does not import torch."""

from __future__ import annotations

import os
import platform

from fgg.errors import FggError

RUN = "FGG_RUN"  # environment variable that tells a job its run: HOST:PROCESS


def check_wanted() -> None:
    """Stop a job whose run has been killed, since its result may no longer match the settings.

    Raises:
        FggError: the run that started this job no longer exists. Only a run on the same machine can be checked.
    """
    host, _, process = os.environ.get(RUN, "").rpartition(":")
    if host == platform.node() and not alive(int(process)):
        raise FggError(
            f"the run that started this job (process {process}) has ended, so its result is not written; "
            "start the run again to make the missing files"
        )


def alive(process: int) -> bool:
    """Whether a process exists on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
