"""A stream for log lines that loses a line sooner than the request that it tells of."""

from contextlib import suppress
from typing import TextIO


class LogStream:
    """Writes to another stream; what that one cannot take, as on a full disk, is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Never raises OSError."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Never raises OSError."""
        with suppress(OSError):
            self._stream.flush()
