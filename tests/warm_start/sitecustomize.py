"""Python imports this at its start. ``python -m snakemake`` and ``python -m fgg.…`` hand their work to a warm process.

The other end is `warm_python.serve`. Only the standard library is used, and little of it: this is all that is started.
"""

import os
import sys


def hand_over(place: str, words: list[str]) -> int:
    """Send arguments, environment, working folder and the three standard files; the exit status of what they ran."""
    import json
    import socket

    with socket.socket(socket.AF_UNIX) as server:
        server.connect(place)
        asked = {"words": words, "environment": dict(os.environ), "folder": os.getcwd()}  # noqa: PTH109 - pathlib takes as long as all the rest
        message = json.dumps(asked).encode()
        socket.send_fds(server, [len(message).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(message)
        answer = server.recv(8)
    assert answer, "the warm process has gone"
    return int(answer)


if (_place := os.environ.get("FGG_TESTS_WARM")) and sys.orig_argv[1:2] == ["-m"]:
    _words = sys.orig_argv[2:]
    if _words and (_words[0] == "snakemake" or _words[0].startswith("fgg.")):
        os._exit(hand_over(_place, _words))
