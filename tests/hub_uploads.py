"""A hub on this machine that takes uploads: it creates repositories, and keeps the files of commits."""

from __future__ import annotations

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler

from server import COMMIT, LocalServer


class UploadHub(LocalServer):
    """Keeps ``files`` (repository -> path -> bytes) and ``created`` (repository -> whether it is private).

    Takes only the token ``good``, and only repositories of ``owner``. ``requests`` are (method, path, Authorization).
    """

    def __init__(self, good: str = "hf_good", owner: str = "me") -> None:
        self.good, self.owner = good, owner
        self.files: dict[str, dict[str, bytes]] = {}
        self.created: dict[str, bool] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.stored: dict[str, bytes] = {}  # SHA-256 -> content, of large files
        super().__init__(_Handler)


class _Handler(BaseHTTPRequestHandler):
    own: UploadHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_PUT(self) -> None:
        """A large file, at the address that the hub gave out; like a real store, it needs no token."""
        data = self._body()
        assert self.path == f"/store/{hashlib.sha256(data).hexdigest()}"
        self.own.stored[self.path.rsplit("/", 1)[1]] = data
        self._send(200, {})

    def do_POST(self) -> None:
        data = self._body()
        path = self.path.split("?")[0]
        if self.headers.get("Authorization") != f"Bearer {self.own.good}":
            self._send(401, {"error": "Invalid credentials"})
        elif path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self._create(json.loads(data))
        elif path.endswith("/preupload/main"):
            files = [{"path": one["path"], "shouldIgnore": False, "uploadMode": _mode(one["path"])}
                     for one in json.loads(data)["files"]]  # fmt: skip
            self._send(200, {"files": files})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.own.url}/store/{one['oid']}"}}}
                for one in json.loads(data)["objects"]
            ]
            self._send(200, {"transfer": "basic", "objects": objects})
        elif "/commit/" in path:
            self._commit("/".join(path.split("/")[3:5]), data)
        else:
            self._send(404, {"error": f"no {path}"})

    def _create(self, wanted: dict) -> None:
        owner = wanted.get("organization") or self.own.owner
        name = f"{owner}/{wanted['name']}"
        if owner != self.own.owner:
            self._send(403, {"error": f"You don't have the rights to create a model under the namespace {owner!r}"})
        elif name in self.own.created:
            self._send(409, {"error": "You already created this model repo", "url": f"{self.own.url}/{name}"})
        else:
            private = wanted.get("private")
            self.own.created[name] = wanted.get("visibility") == "private" if private is None else private
            self._send(200, {"url": f"{self.own.url}/{name}", "name": name, "id": "1"})

    def _commit(self, name: str, data: bytes) -> None:
        for line in map(json.loads, data.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                self.own.files.setdefault(name, {})[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.own.files.setdefault(name, {})[value["path"]] = self.own.stored[value["oid"]]
        self._send(200, {"commitOid": COMMIT, "commitUrl": f"{self.own.url}/{name}/commit/{COMMIT}"})

    def _body(self) -> bytes:
        self.own.requests.append((self.command, self.path, self.headers.get("Authorization")))
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, value: dict) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status >= 400:
            self.send_header("X-Error-Message", value.get("error", ""))
        self.end_headers()
        self.wfile.write(data)


def _mode(path: str) -> str:
    return "regular" if path.endswith((".json", ".md")) else "lfs"
