"""Takes what a step prints and keeps it as whole lines in a file: without secrets, up to a size, without ever making
the step wait for anything but the disk.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from trainer_core.redaction import Redactor

_MAX_FILE_BYTES = 200 * 1024 * 1024
_MAX_LINE_BYTES = 64 * 1024
_READ_BYTES = 64 * 1024


class LogSink:
    """Appends lines to one file. A carriage return overwrites its line, as on a terminal: progress bars cost one line.

    What does not fit, because the file has reached its size or the disk is full, is dropped and counted.
    """

    def __init__(
        self,
        path: Path,
        *,
        redactor: Redactor | None = None,
        max_file_bytes: int = _MAX_FILE_BYTES,
        max_line_bytes: int = _MAX_LINE_BYTES,
    ) -> None:
        self._redactor = redactor or Redactor()
        self._max_line_bytes = max_line_bytes
        self._buffer = b""
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._room_bytes = max(0, max_file_bytes - os.fstat(self._fd).st_size)
        self.num_dropped_bytes = 0

    def drain(self, fd: int) -> None:
        """Reads the descriptor until end-of-file; run it in a thread beside the step."""
        while chunk := os.read(fd, _READ_BYTES):
            self.feed(chunk)
        self.flush()

    def feed(self, chunk: bytes) -> None:
        """Takes the next bytes and writes the lines that they complete."""
        lines = (self._buffer + chunk).split(b"\n")
        self._buffer = lines.pop()
        if lines:
            self._write(b"".join(self._clean(line) + b"\n" for line in lines))
        if len(self._buffer) > self._max_line_bytes:
            self._split_buffer()

    def flush(self) -> None:
        """Writes what is left of a last line without a newline."""
        if self._buffer:
            self._write(self._clean(self._buffer) + b"\n")
            self._buffer = b""

    def close(self) -> None:
        """Writes the rest, says what was dropped, and closes the file."""
        if self._fd < 0:
            return
        self.flush()
        if self.num_dropped_bytes:
            self._append(b"[%d bytes of output were dropped here]\n" % self.num_dropped_bytes)
        os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _split_buffer(self) -> None:
        """Cuts a line that does not end, holding back as much as a secret may take: it may lie across the cut."""
        clean = self._clean(self._buffer)
        cut = max(0, len(clean) - self._redactor.max_secret_bytes)
        if cut:
            self._write(clean[:cut] + b"\n")
        self._buffer = clean[cut:]

    def _clean(self, line: bytes) -> bytes:
        shown = line.rstrip(b"\r").rpartition(b"\r")[2]
        return self._redactor.redact(shown)

    def _write(self, lines: bytes) -> None:
        if len(lines) > self._room_bytes:
            self.num_dropped_bytes += len(lines)
            self._room_bytes = 0
            return
        self._room_bytes -= len(lines)
        self.num_dropped_bytes += len(lines) - self._append(lines)

    def _append(self, lines: bytes) -> int:
        """Returns how many bytes were written: a full disk must not stop the step's output from being drained."""
        try:
            return os.write(self._fd, lines)
        except OSError:
            return 0
