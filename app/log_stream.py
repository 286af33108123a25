"""A stream for log lines that loses a line sooner than the request that it tells of."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, TextIO


class LogStream:
    """Writes to another stream; what that one cannot take, as on a full disk, is dropped."""

    num_dropped: ClassVar[int] = 0
    """Lines that this process has lost so far, over all its streams."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_lost = False

    def write(self, text: str) -> int:
        """Never raises OSError."""
        self._is_lost = False
        with self._counting():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Never raises OSError."""
        with self._counting():
            self._stream.flush()

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """A line is lost when it is written or when it is flushed, and counts once."""
        try:
            yield
        except OSError:
            LogStream.num_dropped += not self._is_lost
            self._is_lost = True
