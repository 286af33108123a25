"""One request and the head of its answer over an open connection, within a time for all of it.

Written on the socket because the usual clients limit each read, not the whole: a receiver that sends a byte now and
then would hold a sender for ever.
"""

import re
import socket
from collections.abc import Mapping

from app.webhooks.connecting import Deadline
from app.webhooks.errors import SendFailed
from app.webhooks.targets import Target
from app.webhooks.views import Answer

MAX_ANSWER_BYTES = 64 << 10
_DRAIN_SECONDS = 1.0
_CHUNK_BYTES = 4096
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: [^\r\n]*)?")
_END_OF_HEAD = b"\r\n\r\n"


def exchange(
    connection: socket.socket, target: Target, *, headers: Mapping[str, str], body: bytes, deadline: Deadline
) -> Answer:
    """Posts the body; the answer's status and headers. Raises SendFailed, TimeoutError, OSError."""
    head = [f"POST {target.request_target} HTTP/1.1", f"host: {target.host_header}"]
    head += [f"{name}: {value}" for name, value in headers.items()]
    head += [f"content-length: {len(body)}", "connection: close", "", ""]
    _send(connection, "\r\n".join(head).encode("ascii") + body, deadline)
    reader = _Reader(connection, deadline)
    answer = reader.read_head()
    while answer.status < 200:
        # 100 Continue or 103 Early Hints: the answer follows.
        answer = reader.read_head()
    reader.drain(answer)
    return answer


def _send(connection: socket.socket, data: bytes, deadline: Deadline) -> None:
    view = memoryview(data)
    while view:
        connection.settimeout(deadline.left_seconds())
        view = view[connection.send(view) :]


class _Reader:
    """Reads at most 64 KiB of one answer."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._connection = connection
        self._deadline = deadline
        self._buffer = b""
        self._left_bytes = MAX_ANSWER_BYTES

    def read_head(self) -> Answer:
        """Status line and headers of the next answer."""
        while _END_OF_HEAD not in self._buffer:
            if not self._read_more(self._deadline):
                raise SendFailed("the receiver closed the connection, or sent too much, before its answer was whole")
        head, _, self._buffer = self._buffer.partition(_END_OF_HEAD)
        first, *lines = head.split(b"\r\n")
        match = _STATUS_LINE.fullmatch(first)
        if match is None:
            raise SendFailed("the receiver's answer is not HTTP/1.1")
        fields = (line.decode("latin-1").partition(":") for line in lines)
        return Answer(int(match[1]), {name.strip().lower(): value.strip() for name, _, value in fields})

    def drain(self, answer: Answer) -> None:
        """Reads what is left of a short body, so that its sender sees no broken pipe; how that ends does not matter."""
        length = answer.headers.get("content-length", "")
        num_bytes = int(length) if length.isascii() and length.isdigit() and len(length) < 9 else MAX_ANSWER_BYTES
        deadline = self._deadline.shorten(_DRAIN_SECONDS)
        try:
            while len(self._buffer) < num_bytes and self._read_more(deadline):
                pass
        except OSError:
            return

    def _read_more(self, deadline: Deadline) -> bool:
        """False at the end of the answer, or of what is read of it."""
        if self._left_bytes <= 0:
            return False
        self._connection.settimeout(deadline.left_seconds())
        chunk = self._connection.recv(min(_CHUNK_BYTES, self._left_bytes))
        self._left_bytes -= len(chunk)
        self._buffer += chunk
        return bool(chunk)
