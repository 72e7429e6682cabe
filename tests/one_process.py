"""The commands that a workflow would run, one after another in one process: a fifth of the time, and no other order."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DRIVER = """
import json, runpy, sys
for module, *arguments in json.load(sys.stdin):
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        assert not end.code, (module, end.code)
"""


def commands(said: str) -> dict[str, list[str]]:
    """The commands in what a dry run with ``--printshellcmds`` says: name of the log without suffix -> module, arguments."""
    found = re.findall(r"(?m)^Shell command: python -m (.*) > logs/(\S+)\.log 2>&1$", said)
    assert found, said
    return {log: shlex.split(command) for command, log in found}


def run(those: Iterable[list[str]], folder: Path) -> None:
    """Run them in a folder, with one thread."""
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps(list(those)),
        text=True,
        cwd=folder,
        env={**os.environ, **threads, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        check=True,
    )
