"""A model hub on this machine: the few requests that `huggingface_hub.snapshot_download` makes."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True, kw_only=True)
class FakeHub:
    endpoint: str
    downloaded: list[str] = field(default_factory=list)
    """Paths of the files that were asked for with GET, in order."""
    tokens: set[str] = field(default_factory=set)
    """Values of the Authorization header that came."""


@contextmanager
def serve_hub(models: Mapping[str, Mapping[str, bytes]], *, gated: tuple[str, ...] = ()) -> Iterator[FakeHub]:
    """Serves models (id to files), each at the revision `main` alone."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = FakeHub(endpoint=f"http://127.0.0.1:{server.server_port}")
    server.content = (models, gated, hub)  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps quiet."""

    def _serve(self) -> None:
        models, gated, hub = self.server.content  # type: ignore[attr-defined]
        hub.tokens.add(self.headers.get("Authorization", ""))
        path = urlsplit(self.path).path.removeprefix("/api/models").strip("/")
        owner, name, *rest = path.split("/")
        model = f"{owner}/{name}"
        kind, revision, *file = rest or ["revision", "main"]
        if model in gated:
            self._fail(403, "GatedRepo")
        elif model not in models:
            self._fail(404, "RepoNotFound")
        elif revision not in ("main", _COMMIT):
            self._fail(404, "RevisionNotFound")
        elif kind == "resolve":
            self._send_file(hub, models[model], "/".join(file))
        else:
            self._send_json(_describe(model, models[model]) if kind == "revision" else _tree(models[model]))

    def _send_file(self, hub: FakeHub, files: Mapping[str, bytes], path: str) -> None:
        if path not in files:
            self._fail(404, "EntryNotFound")
            return
        if self.command == "GET":
            hub.downloaded.append(path)
        etag = hashlib.sha1(files[path], usedforsecurity=False).hexdigest()
        self._send(200, files[path], {"ETag": f'"{etag}"', "X-Repo-Commit": _COMMIT})

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json", "X-Repo-Commit": _COMMIT})

    def _fail(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _describe(model: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    return {"id": model, "modelId": model, "sha": _COMMIT, "siblings": [{"rfilename": path} for path in files]}


def _tree(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    return [
        {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data, usedforsecurity=False).hexdigest()}
        for path, data in files.items()
    ]
