"""A hub of data sets on this machine, which speaks as much of its HTTP API as its client asks for."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Hub:
    """Its repositories, and what it was asked."""

    url: str
    repositories: Mapping[str, Mapping[str, Mapping[str, bytes]]] = field(default_factory=dict)
    """By OWNER/NAME and revision the files by their names."""
    gated: set[str] = field(default_factory=set)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, path, authorization)."""

    def commit(self, name: str, revision: str) -> str | None:
        """The commit that a revision, or a commit, of a repository is."""
        for one in self.repositories[name]:
            made = hashlib.sha1(f"{name} {one}".encode()).hexdigest()
            if revision in (one, made):
                return made
        return None

    def files(self, name: str, revision: str) -> Mapping[str, bytes]:
        """Those of a revision or a commit."""
        commit = self.commit(name, revision)
        return next(
            files for one, files in self.repositories[name].items() if self.commit(name, one) == commit
        )

    def downloads(self, ending: str) -> list[str]:
        """The files with that ending whose bytes were asked for."""
        return [path for method, path, _ in self.asked if method == "GET" and path.endswith(ending)]


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub, for as long as the block lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = Hub(url=f"http://127.0.0.1:{server.server_address[1]}")
    server.hub = hub  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub: Hub = self.server.hub  # pyright: ignore[reportAttributeAccessIssue]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        hub.asked.append((self.command, path, self.headers.get("Authorization", "")))
        words = path.strip("/").split("/")
        is_api = words[0] == "api"
        words = words[2:] if is_api else words[1:]
        name = "/".join(words[:2])
        if name not in hub.repositories:
            return self._refuse(401 if not is_api else 404, "RepoNotFound", "Repository not found")
        if name in hub.gated and not self.headers.get("Authorization"):
            return self._refuse(401, "GatedRepo", f"Access to dataset {name} is restricted.")
        what, revision, rest = [*words[2:4], "revision", "main"][:2] + ["/".join(words[4:])]
        commit = hub.commit(name, revision)
        if commit is None:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = hub.files(name, revision)
        if what == "resolve":
            if rest not in files:
                return self._refuse(404, "EntryNotFound", "Entry not found", commit)
            return self._send(200, files[rest], {"X-Repo-Commit": commit, "ETag": f'"{_id(files[rest])}"'})
        if what == "paths-info":
            said = parse_qs(body.decode()) if body[:1] != b"{" else json.loads(body)
            return self._json([_entry(path, files) for path in said["paths"] if _entry(path, files)])
        if what == "tree":
            deep = "recursive=true" in urlsplit(self.path).query.lower()
            entries = [_entry(path, files) for path in _below(rest, files, deep=deep)]
            return self._json(entries) if entries else self._refuse(404, "EntryNotFound", "Entry not found")
        siblings = [{"rfilename": path} for path in files]
        return self._json({"id": name, "sha": commit, "siblings": siblings, "private": False, "tags": []})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str, commit: str = "") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(status, b"", headers | ({"X-Repo-Commit": commit} if commit else {}))

    def _send(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _id(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def _below(folder: str, files: Mapping[str, bytes], *, deep: bool) -> list[str]:
    """Files and folders in a folder; with ``deep`` in those too."""
    parents = {path.as_posix() for name in files for path in PurePosixPath(name).parents}
    paths = sorted({*files, *parents} - {".", folder})
    inside = [path for path in paths if not folder or path.startswith(f"{folder}/")]
    return [path for path in inside if deep or PurePosixPath(path).parent == PurePosixPath(folder)]


def _entry(path: str, files: Mapping[str, bytes]) -> dict[str, Any] | None:
    if path in files:
        return {"type": "file", "path": path, "size": len(files[path]), "oid": _id(files[path])}
    return (
        {"type": "directory", "path": path, "oid": _id(path.encode())}
        if _below(path, files, deep=True)
        else None
    )
