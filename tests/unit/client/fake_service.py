"""A small real HTTP server that answers by a script: errors, dropped connections, streams, ranges, corrupted bytes."""

import json
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass(frozen=True)
class Request:
    """What the client sent."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    """At most its first MiB."""

    def json(self) -> object:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """What the server answers."""

    status: int = 200
    json: object = None
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    drop_after_bytes: int | None = None
    """The connection is reset after so many bytes of the body; 0 and `is_silent`: without an answer."""
    is_silent: bool = False
    """No status line is sent at all."""
    ends_cleanly: bool = False
    """The body's length is not announced; it ends with the connection."""

    def content(self) -> bytes:
        if self.body is not None:
            return self.body
        return b"" if self.json is None else json.dumps(self.json).encode()


DROPPED = Reply(is_silent=True, drop_after_bytes=0)
"""The request is read, the connection reset, nothing answered."""

Script = Callable[[Request], Reply]


def error(status: int, message: str = "No.", *, headers: Mapping[str, str] | None = None, **fields: object) -> Reply:
    """An error in the service's envelope."""
    details = fields.pop("details", [])
    body = {"message": message, "type": "invalid_request_error", "param": None, "code": "bad", "details": details}
    return Reply(status, json={"error": {**body, **fields}}, headers={"x-request-id": "req-7", **(headers or {})})


def listing(items: list[object], *, has_more: bool = False) -> Reply:
    """A page of a list."""
    return Reply(json={"object": "list", "data": items, "has_more": has_more})


def stream(*items: object, end: bool = False, **reply: object) -> Reply:
    """Server-sent events: one a dict (its id is `seq` or `id`), comments as str, and the final `end`."""
    text = "retry: 2000\n\n"
    for item in items:
        if isinstance(item, str):
            text += item
        else:
            text += f"id: {item.get('seq', item['id'])}\nevent: {item.get('type', 'log')}\ndata: {json.dumps(item)}\n\n"
    text += "event: end\ndata: {}\n\n" if end else ""
    headers = {"content-type": "text/event-stream"}
    return Reply(body=text.encode(), headers=headers, **{"ends_cleanly": True, **reply})


def ranged(content: bytes) -> Script:
    """A download that honours `Range`."""

    def answer(request: Request) -> Reply:
        wanted = request.headers.get("range")
        if wanted is None:
            return Reply(body=content)
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            return Reply(416, body=b"", headers={"content-range": f"bytes */{len(content)}"})
        place = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return Reply(206, body=content[start:], headers={"content-range": place})

    return answer


class FakeService(ThreadingHTTPServer):
    """Answers each call with the next reply of its script (the last one again and again), and keeps what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[Request] = []
        self.num_answers_cut_short = 0
        """Answers that the client did not read to their end."""
        self._scripts: dict[tuple[str, str], list[Reply | Script]] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def on(self, method: str, path: str, *replies: Reply | Script) -> None:
        """Scripts the answers to a call."""
        self._scripts[method, path] = list(replies)

    def asked(self, method: str, path: str) -> list[Request]:
        """The requests of one call, in order."""
        return [request for request in self.requests if (request.method, request.path) == (method, path)]

    def answer(self, request: Request) -> Reply:
        """The next reply of the call's script."""
        with self._lock:
            self.requests.append(request)
            script = self._scripts.get((request.method, request.path))
            if not script:
                return error(404, f"No script for {request.method} {request.path}.")
            step = script.pop(0) if len(script) > 1 else script[0]
        return step if isinstance(step, Reply) else step(request)

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeService

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.server.num_answers_cut_short += 1
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self._read_body(int(headers.get("content-length", 0)))
        query = dict(parse_qsl(parts.query))
        self._send(self.server.answer(Request(self.command, unquote(parts.path), query, headers, body)))

    do_POST = do_DELETE = do_GET

    def _read_body(self, num_bytes: int) -> bytes:
        """The first MiB: this process measures what the client keeps in memory."""
        body = self.rfile.read(min(num_bytes, 1 << 20))
        left = num_bytes - len(body)
        while left:
            left -= len(self.rfile.read(min(left, 1 << 20)))
        return body

    def _send(self, reply: Reply) -> None:
        if not reply.is_silent:
            self._send_answer(reply)
        if reply.drop_after_bytes is not None:
            self.close_connection = True
        if reply.is_silent:
            # Closing with linger 0 resets the connection instead of ending it in order.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _send_answer(self, reply: Reply) -> None:
        content = reply.content()
        self.send_response(reply.status)
        for name, value in {"content-type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        if reply.ends_cleanly:
            self.send_header("connection", "close")
        else:
            self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: reply.drop_after_bytes])
        self.wfile.flush()
