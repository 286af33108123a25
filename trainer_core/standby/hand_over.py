"""What a waiting process is told of its job, and what it says: lines of JSON on its stdin and stdout.

It says one line when it is ready, or why it never will be; then it reads one `HandOver`, answers it, and reads the line
of secrets as any process of a job does. An end-of-file in place of a line means that the other one is gone.
"""

import json
import os
import select
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

_MAX_LINE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class HandOver:
    """A job for a process that waits."""

    arguments: tuple[str, ...]
    """What its program is told; its command line reads so from then on."""
    folder: str
    """The current folder from then on."""
    env: Mapping[str, str]
    """The whole environment that it would have been started with."""

    def to_line(self) -> bytes:
        """Returns the line, newline included."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Reads it back. Raises ValueError, KeyError or TypeError for a line that is none."""
        fields = json.loads(line)
        return cls(
            arguments=tuple(str(argument) for argument in fields["arguments"]),
            folder=str(fields["folder"]),
            env={str(name): str(value) for name, value in fields["env"].items()},
        )


@dataclass(frozen=True, slots=True)
class Readiness:
    """What a process says once it has begun to wait, or when it gives up."""

    is_ready: bool
    message: str = ""
    """Why it never will be: another one would not be either."""

    def to_line(self) -> bytes:
        """Returns the line, newline included."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Reads it back; anything else comes from a process that cannot be used."""
        try:
            fields = json.loads(line)
            return cls(bool(fields["is_ready"]), str(fields["message"]))
        except (ValueError, KeyError, TypeError):
            return cls(is_ready=False, message=f"it says {line[:100]!r}")


ANSWER = b'{"is_taken": true}\n'
"""The answer to a `HandOver`: the job is served. A process that cannot serve it ends without one."""


def read_line(descriptor: int, *, timeout_seconds: float) -> bytes | None:
    """Reads one line without buffering; None when the other end is closed or silent for so long."""
    deadline = time.monotonic() + timeout_seconds
    line = bytearray()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while len(line) < _MAX_LINE_BYTES:
        left_seconds = max(0.0, deadline - time.monotonic())
        if not poll.poll(left_seconds * 1000):
            return None
        byte = os.read(descriptor, 1)
        if not byte:
            return None
        if byte == b"\n":
            return bytes(line)
        line += byte
    return None


def write_line(descriptor: int, line: bytes, *, timeout_seconds: float) -> bool:
    """Writes a line into a pipe; False when the other end is closed, or takes too long to read what is there.

    The pipe holds 64 KiB: a process that has been stopped would have its writer wait for ever.
    """
    deadline = time.monotonic() + timeout_seconds
    left = memoryview(line)
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    os.set_blocking(descriptor, False)
    try:
        while left:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return False
            try:
                left = left[os.write(descriptor, left) :]
            except BlockingIOError:
                # Less room than a pipe takes at once.
                continue
    except BrokenPipeError:
        return False
    finally:
        os.set_blocking(descriptor, True)
    return True


def has_line(descriptor: int) -> bool:
    """Whether there is something to read, an end-of-file included, without waiting for it."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
