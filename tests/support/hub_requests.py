"""The requests that the local hub answers, as the real one does."""

import base64
import hashlib
import json
import re
import socket
import struct
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.hub_state import Fault, HubState, Repository, User

_NAME = r"[^/]+(?:/[^/]+)?"
_INFO = re.compile(rf"/api/(models|datasets)/({_NAME})(?:/revision/(.+))?")
_TREE = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?")
_PATHS = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/paths-info/([^/]+)")
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_AUTH = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/auth-check(/write)?")
_PREUPLOAD = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/preupload/([^/]+)")
_COMMIT = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/commit/([^/]+)")
_LFS_BATCH = re.compile(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch")
_LFS_PUT = re.compile(r"/lfs/([0-9a-f]{64})(?:/(\d+))?")
_LARGE = (".safetensors", ".bin", ".pt", ".model", ".parquet")
_LARGE_BYTES = 10_000_000


class Refusal(Exception):
    """An answer without content."""

    def __init__(self, status: int, code: str = "", *, message: str = "", headers: Mapping[str, str] | None = None):
        super().__init__(code)
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}


class _Dropped(Exception):
    """The connection was broken on purpose."""


class HubRequestHandler(BaseHTTPRequestHandler):
    """Answers one connection."""

    server: Any
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_PUT(self) -> None:
        self._answer(self._put)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    @property
    def _hub(self) -> HubState:
        hub: HubState = self.server.hub
        return hub

    @property
    def _path(self) -> str:
        return unquote(urlsplit(self.path).path)

    def _answer(self, find: Callable[[bytes], None]) -> None:
        self._hub.requests.append(f"{self.command} {self._path}")
        fault = next((each for each in self._hub.faults if each.is_about(self.command, self._path)), None)
        self._loses_answer = fault is not None and fault.loses_answer
        try:
            body = self._read_body(fault)
            if fault is not None and fault.status is not None:
                raise Refusal(fault.status, headers=fault.headers)
            find(body)
        except Refusal as refusal:
            self._send(b"{}", status=refusal.status, headers=refusal.headers)
        except _Dropped:
            self._break()

    def _read_body(self, fault: Fault | None) -> bytes:
        num_bytes = int(self.headers.get("Content-Length", 0))
        if fault is not None:
            fault.times -= 1
            time.sleep(fault.delay_seconds)
            if fault.drop_after_bytes is not None:
                self.rfile.read(min(num_bytes, fault.drop_after_bytes))
                raise _Dropped
        body = self._read_chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(num_bytes)
        self._hub.bodies.append(body)
        return body

    def _read_chunks(self) -> bytes:
        body = b""
        while num_bytes := int(self.rfile.readline().strip() or b"0", 16):
            body += self.rfile.read(num_bytes)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _break(self) -> None:
        """A reset, as when a cable is pulled: no answer and no orderly end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _get(self, body: bytes) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if self._path == "/api/whoami-v2":
            user = self._require_user()
            self._send_json({"type": "user", "name": user.name, "auth": {"type": "access_token"}})
        elif match := _AUTH.fullmatch(self._path):
            self._find_writable(match[1], match[2]) if match[3] else self._find_repository(match[1], match[2])
            self._send_json({})
        elif match := _TREE.fullmatch(self._path):
            _, files = self._find_commit(match[1], match[2], match[3])
            is_recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
            self._send_json(list_tree(files, folder=match[4] or "", is_recursive=is_recursive))
        elif match := _FILE.fullmatch(self._path):
            self._send_file("datasets" if match[1] else "models", match[2], match[3], match[4])
        elif match := _INFO.fullmatch(self._path):
            sha, files = self._find_commit(match[1], match[2], match[3] or "main")
            is_private = self._hub.repositories[match[1], match[2]].is_private
            siblings = [{"rfilename": name} for name in sorted(files)]
            self._send_json({"id": match[2], "sha": sha, "private": is_private, "tags": [], "siblings": siblings})
        else:
            raise Refusal(HTTPStatus.NOT_FOUND, "EntryNotFound")

    def _post(self, body: bytes) -> None:
        if self._path == "/api/repos/create":
            self._create_repository(json.loads(body))
        elif self._path == "/api/validate-yaml":
            text = json.loads(body)["content"]
            if not text.startswith("---\n"):
                raise Refusal(HTTPStatus.BAD_REQUEST)
            self._send_json({"errors": [], "warnings": []})
        elif match := _PREUPLOAD.fullmatch(self._path):
            repository = self._find_writable(match[1], match[2])
            there = repository.commits.get(repository.branches.get("main", ""), {})
            self._send_json({"files": [_choose_mode(file, there) for file in json.loads(body)["files"]]})
        elif match := _LFS_BATCH.fullmatch(self._path):
            self._find_writable("datasets" if match[1] else "models", match[2])
            self._send_json({"objects": [self._ask_for(each) for each in json.loads(body)["objects"]]})
        elif match := _LFS_PUT.fullmatch(self._path):
            self._finish_upload(match[1], json.loads(body))
        elif match := _COMMIT.fullmatch(self._path):
            self._commit(match[1], match[2], body)
        elif match := _PATHS.fullmatch(self._path):
            self._send_paths(match, body)
        else:
            raise Refusal(HTTPStatus.NOT_FOUND, "EntryNotFound")

    def _put(self, body: bytes) -> None:
        match = _LFS_PUT.fullmatch(self._path)
        if match is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "EntryNotFound")
        if match[2]:
            self._hub.parts[match[1], int(match[2])] = body
        elif hashlib.sha256(body).hexdigest() != match[1]:
            raise Refusal(HTTPStatus.BAD_REQUEST)
        else:
            self._hub.objects[match[1]] = body
        self._send(b"", headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})

    def _create_repository(self, asked: dict[str, Any]) -> None:
        user = self._require_user()
        name = f"{asked.get('organization') or user.name}/{asked['name']}"
        kind = f"{asked.get('type') or 'model'}s"
        url = f"http://127.0.0.1:{self.server.server_port}/{name}"
        if not user.may_write(name.partition("/")[0]):
            raise Refusal(HTTPStatus.FORBIDDEN, message=f"You don't have the rights to create a model under {name}")
        if (kind, name) in self._hub.repositories:
            self._send_json({"error": "You already created this repo", "url": url}, status=HTTPStatus.CONFLICT)
            return
        repository = Repository(is_private=asked.get("visibility") == "private")
        repository.commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        self._hub.repositories[kind, name] = repository
        self._send_json({"url": url, "name": name, "id": "0"})

    def _ask_for(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """The upload that an object needs: none, one piece, or parts."""
        oid, size = wanted["oid"], wanted["size"]
        if oid in self._hub.objects:
            return {"oid": oid, "size": size}
        base = f"http://127.0.0.1:{self.server.server_port}/lfs/{oid}"
        upload: dict[str, Any] = {"href": base}
        if self._hub.part_bytes is not None and size > self._hub.part_bytes:
            num_parts = -(-size // self._hub.part_bytes)
            parts = {f"{number:05}": f"{base}/{number}" for number in range(1, num_parts + 1)}
            upload["header"] = {"chunk_size": str(self._hub.part_bytes), **parts}
        return {"oid": oid, "size": size, "actions": {"upload": upload}}

    def _finish_upload(self, oid: str, asked: dict[str, Any]) -> None:
        parts = [self._hub.parts[oid, part["partNumber"]] for part in asked["parts"]]
        content = b"".join(parts)
        if hashlib.sha256(content).hexdigest() != oid:
            raise Refusal(HTTPStatus.BAD_REQUEST)
        self._hub.objects[oid] = content
        self._send_json({})

    def _commit(self, kind: str, name: str, body: bytes) -> None:
        repository = self._find_writable(kind, name)
        files = dict(repository.commits.get(repository.branches.get("main", ""), {}))
        summary = ""
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                summary = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self._hub.objects:
                    raise Refusal(HTTPStatus.BAD_REQUEST, message="the object was not uploaded")
                files[value["path"]] = self._hub.objects[value["oid"]]
            else:
                del files[value["path"]]
        sha = repository.commit(files, summary=summary)
        url = f"http://127.0.0.1:{self.server.server_port}/{name}/commit/{sha}"
        self._send_json({"success": True, "commitOid": sha, "commitUrl": url})

    def _send_paths(self, match: re.Match[str], body: bytes) -> None:
        is_json = self.headers.get("Content-Type", "").startswith("application/json")
        wanted = json.loads(body)["paths"] if is_json else parse_qs(body.decode()).get("paths", [])
        _, files = self._find_commit(match[1], match[2], match[3])
        entries = {entry["path"]: entry for entry in list_tree(files, folder="", is_recursive=True)}
        self._send_json([entries[path] for path in wanted if path in entries])

    def _find_user(self) -> User | None:
        return self._hub.users.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def _require_user(self) -> User:
        user = self._find_user()
        if user is None:
            raise Refusal(HTTPStatus.UNAUTHORIZED, message="Invalid credentials in Authorization header")
        return user

    def _find_repository(self, kind: str, name: str) -> Repository:
        """The real one does not tell a stranger that a private repository exists."""
        repository = self._hub.repositories.get((kind, name))
        if repository is None:
            raise Refusal(HTTPStatus.UNAUTHORIZED, "RepoNotFound")
        user, namespace = self._find_user(), name.partition("/")[0]
        is_member = user is not None and namespace in (user.name, *user.organizations)
        is_known = repository.token and self.headers.get("Authorization") == f"Bearer {repository.token}"
        if (repository.token or repository.is_private) and not (is_member or is_known):
            raise Refusal(HTTPStatus.UNAUTHORIZED, "RepoNotFound")
        return repository

    def _find_writable(self, kind: str, name: str) -> Repository:
        repository = self._find_repository(kind, name)
        if not self._require_user().may_write(name.partition("/")[0]):
            raise Refusal(HTTPStatus.FORBIDDEN, message="you must use a write token")
        return repository

    def _find_commit(self, kind: str, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        repository = self._find_repository(kind, name)
        sha = repository.branches.get(revision, revision)
        if sha not in repository.commits:
            raise Refusal(HTTPStatus.NOT_FOUND, "RevisionNotFound")
        return sha, repository.commits[sha]

    def _send_file(self, kind: str, name: str, revision: str, path: str) -> None:
        sha, files = self._find_commit(kind, name, revision)
        if path not in files:
            raise Refusal(HTTPStatus.NOT_FOUND, "EntryNotFound")
        content = files[path]
        headers = {"ETag": f'"{hash_content(content)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        status: int = HTTPStatus.OK
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(wanted[1]), int(wanted[2] or len(content) - 1) + 1
            headers["Content-Range"] = f"bytes {start}-{min(stop, len(content)) - 1}/{len(content)}"
            content, status = content[start:stop], HTTPStatus.PARTIAL_CONTENT
        if self.command == "GET":
            self._hub.downloads.append(f"{name}/{path}")
        self._send(content, status=status, headers=headers)

    def _send_json(self, value: object, *, status: int = HTTPStatus.OK) -> None:
        self._send(json.dumps(value).encode(), status=status, headers={"Content-Type": "application/json"})

    def _send(self, content: bytes, *, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> None:
        if self._loses_answer:
            self._break()
            return
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _choose_mode(file: Mapping[str, Any], there: Mapping[str, bytes]) -> dict[str, Any]:
    """How a file is to be sent, and the oid of what lies there under its name already."""
    path = file["path"]
    is_large = path.endswith(_LARGE) or file["size"] > _LARGE_BYTES
    answer = {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}
    if path in there:
        answer["oid"] = hashlib.sha256(there[path]).hexdigest() if is_large else _hash_blob(there[path])
    return answer


def list_tree(files: Mapping[str, bytes], *, folder: str, is_recursive: bool) -> list[dict[str, Any]]:
    """What a listing of the folder shows. Raises Refusal when there is none."""
    prefix = f"{folder}/" if folder else ""
    inside = {name: content for name, content in files.items() if name.startswith(prefix)}
    if folder and not inside:
        raise Refusal(HTTPStatus.NOT_FOUND, "EntryNotFound")
    shown = {name for name in inside if is_recursive or "/" not in name[len(prefix) :]}
    folders = {prefix + name[len(prefix) :].split("/")[0] for name in inside.keys() - shown}
    return [
        {"type": "directory", "oid": hash_content(name.encode()), "size": 0, "path": name} for name in sorted(folders)
    ] + [
        {"type": "file", "oid": hash_content(inside[name]), "size": len(inside[name]), "path": name}
        for name in sorted(shown)
    ]


def hash_content(content: bytes) -> str:
    """What listings and downloads call a content."""
    return hashlib.sha1(content).hexdigest()


def _hash_blob(content: bytes) -> str:
    """As git names a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
