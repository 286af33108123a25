"""A local fake of the Hugging Face Hub's HTTP API: repositories with commits, listings and downloads.

What `huggingface_hub.snapshot_download` and `datasets.load_dataset` ask for is answered; nothing can be pushed. Client
processes find it by HF_ENDPOINT, which must be set before they import huggingface_hub.
"""

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

RepositoryKind = Literal["models", "datasets"]

_INFO = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/(.+))?")
_TREE = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?")
_PATHS = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/paths-info/([^/]+)")
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repository:
    """One repository; every commit holds all its files."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    """None: anyone may read."""


class FakeHub:
    """Serves while it is entered as a context manager."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.downloads: list[str] = []
        """Paths of the files that were sent, in order."""
        self._server = _Server(self)

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is to be."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def add_commit(
        self,
        name: str,
        files: Mapping[str, bytes] | Path,
        *,
        kind: RepositoryKind = "models",
        branch: str = "main",
        token: str | None = None,
    ) -> str:
        """Commits files, given by path or as a folder, to a repository, which is made if need be; returns the sha."""
        if isinstance(files, Path):
            files = {str(path.relative_to(files)): path.read_bytes() for path in files.rglob("*") if path.is_file()}
        repository = self.repositories.setdefault((kind, name), Repository(token=token))
        sha = hashlib.sha1(f"{name}{branch}{len(repository.commits)}".encode()).hexdigest()
        repository.commits[sha] = dict(files)
        repository.branches[branch] = sha
        return sha

    def __enter__(self) -> Self:
        # A short poll, so that leaving takes no half second.
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Refusal(Exception):
    """An answer without content."""

    def __init__(self, status: HTTPStatus, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def _answer(self, find: Any) -> None:
        try:
            find()
        except _Refusal as refusal:
            self._send(b"", status=refusal.status, headers={"X-Error-Code": refusal.code})

    def _get(self) -> None:
        path = unquote(urlsplit(self.path).path)
        query = parse_qs(urlsplit(self.path).query)
        if match := _TREE.fullmatch(path):
            sha, files = self._find_commit(match[1], match[2], match[3])
            is_recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
            self._send_json(_list_tree(files, folder=match[4] or "", is_recursive=is_recursive))
        elif match := _INFO.fullmatch(path):
            sha, files = self._find_commit(match[1], match[2], match[3] or "main")
            siblings = [{"rfilename": name} for name in sorted(files)]
            self._send_json({"id": match[2], "sha": sha, "private": False, "tags": [], "siblings": siblings})
        elif match := _FILE.fullmatch(path):
            self._send_file("datasets" if match[1] else "models", match[2], match[3], match[4])
        else:
            raise _Refusal(HTTPStatus.NOT_FOUND, "EntryNotFound")

    def _post(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        match = _PATHS.fullmatch(unquote(urlsplit(self.path).path))
        if match is None:
            raise _Refusal(HTTPStatus.NOT_FOUND, "EntryNotFound")
        is_json = self.headers.get("Content-Type", "").startswith("application/json")
        wanted = json.loads(body)["paths"] if is_json else parse_qs(body).get("paths", [])
        _, files = self._find_commit(match[1], match[2], match[3])
        entries = {entry["path"]: entry for entry in _list_tree(files, folder="", is_recursive=True)}
        self._send_json([entries[path] for path in wanted if path in entries])

    def _find_commit(self, kind: str, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        repository = self.server.hub.repositories.get((kind, name))
        authorization = self.headers.get("Authorization")
        if repository is None or (repository.token and authorization != f"Bearer {repository.token}"):
            # The real one does not tell a stranger that a private repository exists.
            raise _Refusal(HTTPStatus.UNAUTHORIZED, "RepoNotFound")
        sha = repository.branches.get(revision, revision)
        if sha not in repository.commits:
            raise _Refusal(HTTPStatus.NOT_FOUND, "RevisionNotFound")
        return sha, repository.commits[sha]

    def _send_file(self, kind: str, name: str, revision: str, path: str) -> None:
        sha, files = self._find_commit(kind, name, revision)
        if path not in files:
            raise _Refusal(HTTPStatus.NOT_FOUND, "EntryNotFound")
        content = files[path]
        headers = {"ETag": f'"{_hash(content)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        status = HTTPStatus.OK
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(wanted[1]), int(wanted[2] or len(content) - 1) + 1
            headers["Content-Range"] = f"bytes {start}-{min(stop, len(content)) - 1}/{len(content)}"
            content, status = content[start:stop], HTTPStatus.PARTIAL_CONTENT
        if self.command == "GET":
            self.server.hub.downloads.append(f"{name}/{path}")
        self._send(content, status=status, headers=headers)

    def _send_json(self, value: object) -> None:
        self._send(json.dumps(value).encode(), headers={"Content-Type": "application/json"})

    def _send(
        self, content: bytes, *, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class _Server(ThreadingHTTPServer):
    """Gives its handlers the hub."""

    daemon_threads = True

    def __init__(self, hub: FakeHub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub


def _list_tree(files: Mapping[str, bytes], *, folder: str, is_recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{folder}/" if folder else ""
    inside = {name: content for name, content in files.items() if name.startswith(prefix)}
    if folder and not inside:
        raise _Refusal(HTTPStatus.NOT_FOUND, "EntryNotFound")
    shown = {name for name in inside if is_recursive or "/" not in name[len(prefix) :]}
    folders = {prefix + name[len(prefix) :].split("/")[0] for name in inside.keys() - shown}
    return [{"type": "directory", "oid": _hash(name.encode()), "size": 0, "path": name} for name in sorted(folders)] + [
        {"type": "file", "oid": _hash(inside[name]), "size": len(inside[name]), "path": name} for name in sorted(shown)
    ]


def _hash(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
