"""Processes of a workflow that start warm: forked from one that has imported torch, timm and Snakemake already.

An interpreter needs 4 to 7 s of CPU time for these imports; most jobs of the tests' workflows need less than 1 s for
their work. The code of this repository is not among what is imported beforehand: every process reads it anew. Each
environment has a server of its own, because libraries read variables while they are imported.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

HOOK = Path(__file__).with_name("warm_start")
VARIABLE = "FGG_TESTS_WARM"
THREADS = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
IMPORTED = (
    *("torch", "torchvision", "timm", "timm.models.vision_transformer", "sae_lens", "pandas", "pyarrow.parquet"),
    *("scipy.stats", "sklearn", "jsonschema", "jinja2", "markdown_it", "PIL.Image"),
    *("matplotlib.pyplot", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "snakemake.cli"),
)
_servers: dict[tuple, Path] = {}


def warmed(environment: Mapping[str, str]) -> dict[str, str]:
    """The same environment, but ``python -m snakemake`` and the jobs below it start warm; as it is where that cannot be."""
    if not hasattr(os, "pidfd_open"):  # no Linux
        return dict(environment)
    own = {name: value for name, value in environment.items() if name not in ("PYTHONPATH", "PYTEST_CURRENT_TEST")}
    key = tuple(sorted(own.items()))
    if key not in _servers:
        _servers[key] = _start(own)
    paths = [str(HOOK), *filter(None, [environment.get("PYTHONPATH")])]
    return {**environment, VARIABLE: str(_servers[key]), "PYTHONPATH": os.pathsep.join(paths)}


def _start(environment: Mapping[str, str]) -> Path:
    """Start a server, which ends with this process; its socket."""
    folder = tempfile.TemporaryDirectory(prefix="warm.")  # the path of a socket is short: no folder of pytest's
    place = Path(folder.name) / "socket"
    server = subprocess.Popen(
        [sys.executable, __file__, place],
        env={**environment, **THREADS},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )

    def stop() -> None:
        server.stdin.close()
        server.wait()
        folder.cleanup()

    atexit.register(stop)
    assert server.stdout.read(5) == b"ready", "the warm process did not start"
    return place


def serve(place: str) -> None:
    """Fork a process for each connection until standard input ends."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # otherwise a collection in a forked process goes through, and so copies, all that was imported
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(place)
    listening.listen(64)
    os.write(1, b"ready")
    works: dict[int, tuple[int, socket.socket]] = {}  # what becomes readable when a process ends -> process, client
    while True:
        clients = {client: process for process, client in works.values()}
        for ready in select.select([0, listening, *works, *clients], [], [])[0]:
            if ready == 0:
                os.killpg(0, signal.SIGKILL)  # itself, and what still works for nobody
            elif ready is listening:
                client, _ = listening.accept()
                asked, files = receive(client)
                process = os.fork()
                if not process:
                    for own in (listening, client, *clients):
                        own.close()
                    for own in works:
                        os.close(own)
                    work(asked, files)
                for file in files:
                    os.close(file)
                works[os.pidfd_open(process)] = process, client
            elif ready in works:
                process, client = works.pop(ready)
                os.close(ready)
                _, status = os.waitpid(process, 0)
                with contextlib.suppress(BrokenPipeError):
                    client.sendall(str(os.waitstatus_to_exitcode(status) & 255).encode())
                client.close()
            elif ready.fileno() >= 0:  # its client was killed, and says nothing more
                os.kill(clients[ready], signal.SIGKILL)


def receive(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What a client asks for, and its standard files."""
    head, files, _, _ = socket.recv_fds(client, 8, 3)
    message = b""
    while len(message) < int.from_bytes(head, "big"):
        message += client.recv(2**16)
    return json.loads(message), files


def work(asked: Mapping[str, Any], files: list[int]) -> NoReturn:
    """Do what ``python -m …`` would do, with its standard files, folder, environment, paths and arguments."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [asked["folder"], *paths]  # in the place of this file's folder
    importlib.invalidate_caches()
    module, *arguments = asked["words"]
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        leave(end.code)
    leave(0)


def leave(code: object) -> NoReturn:
    """End as the interpreter does, without freeing what was imported, which takes half a second."""
    if not isinstance(code, int):
        if code is not None:
            print(code, file=sys.stderr)
        code = int(code is not None)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 255)


if __name__ == "__main__":
    serve(sys.argv[1])
