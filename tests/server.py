"""A web server on this machine with the manners of real ones: ranges, dropped connections, damage, a hub."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import urllib.parse
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LocalServer:
    """Answers requests in a thread, inside a ``with`` block; handlers find it as ``own``."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), {"own": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Server(LocalServer):
    """Serves ``files`` (path -> bytes), and the repositories of ``hub`` (OWNER/NAME -> {path: bytes}).

    ``faults``: path -> list of what goes wrong with its next requests: a status, "drop" after half of the bytes,
    "corrupt", "deaf" (the range is not heeded), "stall" (the connection ends before a byte), or None. ``gates``:
    repository -> (status, error code). ``headers`` are sent with every file, ``disposed`` (path -> Content-Disposition)
    with one. ``requests`` are (method, path, headers) as they came.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.hub: dict[str, Mapping[str, bytes]] = {}
        self.datasets: set[str] = set()
        self.faults: dict[str, list] = {}
        self.gates: dict[str, tuple[int, str]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.headers: dict[str, str] = {}
        self.disposed: dict[str, str] = {}
        super().__init__(_Handler)

    def fault(self, path: str) -> object:
        """What goes wrong now."""
        return self.faults[path].pop(0) if self.faults.get(path) else None

    def ranges(self, path: str) -> list[str | None]:
        """The ranges that were asked for of a path."""
        return [headers.get("Range") for method, own, headers in self.requests if own == path and method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    own: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client that has heard enough
            super().handle()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.own.requests.append((self.command, path, {name.title(): value for name, value in self.headers.items()}))
        fault = None if self.command == "HEAD" else self.own.fault(path)
        if isinstance(fault, int):
            self._send(b"busy", {}, fault)
        elif fault == "stall":
            self.close_connection = True
        elif path in self.own.files:
            disposed = {"Content-Disposition": self.own.disposed[path]} if path in self.own.disposed else {}
            self._file(self.own.files[path], fault, self.own.headers | disposed)
        else:
            self._hub(path, fault)

    def _file(self, data: bytes, fault: object, headers: dict[str, str]) -> None:
        tag = f'"{hashlib.sha256(data).hexdigest()}"'
        headers = {"ETag": tag, "Accept-Ranges": "bytes"} | headers
        status, start = 200, 0
        wanted = self.headers.get("Range")
        current = self.headers.get("If-Range") in (None, headers["ETag"])
        if wanted and fault != "deaf" and current:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            if start >= len(data):
                self._send(b"", {"Content-Range": f"bytes */{len(data)}"}, 416)
                return
            status, headers["Content-Range"] = 206, f"bytes {start}-{len(data) - 1}/{len(data)}"
        part = data[start:]
        if fault == "corrupt":
            middle = len(part) // 2
            part = part[:middle] + bytes([part[middle] ^ 1]) + part[middle + 1 :]
        self._send(part, headers, status, drop=fault == "drop")

    def _hub(self, path: str, fault: object) -> None:
        is_api = path.startswith("/api/")
        parts = path.removeprefix("/api").strip("/").split("/")
        kind = parts.pop(0) if parts[0] in ("datasets", "models") else "models"
        name = "/".join(parts[:2])
        gate = self.own.gates.get(name)
        files = self.own.hub.get(name)
        if files is None or (kind == "datasets") != (name in self.own.datasets):
            self._send(b"{}", {"X-Error-Code": "RepoNotFound"}, 404)
        elif is_api and parts[2] == "revision":
            if parts[3] not in ("main", COMMIT):
                self._send(b"{}", {"X-Error-Code": "RevisionNotFound"}, 404)
            else:
                self._json({"_id": "1", "id": name, "sha": COMMIT, "private": False, "siblings": []})
        elif is_api and parts[2] == "tree":
            self._json([_entry(own, data) for own, data in files.items()])
        elif gate:
            self._send(b"no", {"X-Error-Code": gate[1]}, gate[0])
        elif parts[2] == "resolve" and (data := files.get("/".join(parts[4:]))) is not None:
            self._file(data, fault, {"X-Repo-Commit": COMMIT})
        else:
            self._send(b"{}", {"X-Error-Code": "EntryNotFound"}, 404)

    def _json(self, value: object) -> None:
        self._send(json.dumps(value).encode(), {"Content-Type": "application/json"}, 200)

    def _send(self, data: bytes, headers: dict[str, str], status: int, drop: bool = False) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if drop else data)
        if drop:
            self.wfile.flush()
            self.close_connection = True


def _entry(path: str, data: bytes) -> dict[str, object]:
    """A file as the hub lists it; all but texts are in its large-file store, with their SHA-256."""
    entry = {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
    if path.endswith((".json", ".md")):
        return entry
    return entry | {"lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}}
