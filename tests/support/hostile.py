"""Requests as an attacker sends them, byte for byte, and what every answer to them has to be."""

import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import httpx2

from app.api import schemas

PATIENCE_SECONDS = 5.0
LEAKS = ("Traceback", "site-packages", "sqlalchemy", "psycopg", "sqlite3", ".py", "\x1b")
"""What would tell of the inside."""


@dataclass(frozen=True)
class RawAnswer:
    """What came back until the server closed; `status` is 0 when it closed without a word."""

    status: int
    content: bytes
    seconds: float

    @property
    def num_answers(self) -> int:
        """How many requests the server saw in what was sent."""
        return len(re.findall(rb"HTTP/1\.1 [0-9]{3} ", self.content))

    @property
    def body(self) -> bytes:
        """Behind the first answer's head."""
        return self.content.partition(b"\r\n\r\n")[2]


def send_raw(port: int, content: bytes, *, seconds: float = PATIENCE_SECONDS) -> RawAnswer:
    """Sends bytes and reads until the server closes. Raises TimeoutError when it does not in time."""
    started = time.monotonic()
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        try:
            connection.sendall(content)
            while chunk := connection.recv(65536):
                received += chunk
        except (ConnectionResetError, BrokenPipeError):
            # The server had enough before everything was sent.
            pass
    line = bytes(received[:12])
    status = int(line[9:12]) if line.startswith(b"HTTP/1.") else 0
    return RawAnswer(status, bytes(received), time.monotonic() - started)


def check_harmless(answer: httpx2.Response, *, secret_text: str = "") -> None:
    """Fails for a 5xx, an answer that took long, one in another shape than ours, and one that tells of the inside."""
    seconds = answer.elapsed.total_seconds()
    assert answer.status_code < 500, answer.text[:500]
    assert seconds < PATIENCE_SECONDS, f"{seconds} s"
    if answer.status_code < 400:
        return
    if answer.request.method != "HEAD":
        error = schemas.ErrorBody.model_validate_json(answer.content).error
        assert error.message
        told = str(error).replace(secret_text, "") if secret_text else str(error)
        assert not [leak for leak in LEAKS if leak in told], told
        assert len(answer.content) < 100_000, "an answer that large echoes what was sent"
    assert answer.headers["x-content-type-options"] == "nosniff"


def read_rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def count_open_files(pid: int) -> int:
    """Open file descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
