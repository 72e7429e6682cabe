"""Whether the run that a job belongs to is still there. Imports no torch."""

from __future__ import annotations

import os
import platform

from fgg.errors import FggError

RUN = "FGG_RUN"  # environment variable by which a job knows its run: HOST:PROCESS


def check_wanted() -> None:
    """End a job whose run has been killed: what it makes may no longer be what the settings ask for.

    Raises:
        FggError: the run that started this job is gone. Only a run on the same machine can be looked for.
    """
    host, _, process = os.environ.get(RUN, "").rpartition(":")
    if host == platform.node() and not alive(int(process)):
        raise FggError(
            f"the run that started this job (process {process}) has ended, so its result is not written; "
            "start the run again, which makes what is missing"
        )


def alive(process: int) -> bool:
    """Whether a process of this machine exists."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
