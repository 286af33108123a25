"""Reads what was appended to a growing file, whole lines at a time."""

from collections.abc import Iterator
from pathlib import Path

_READ_BYTES = 1 << 20


class FileTail:
    """A place in a file. A file that is not there yet is an empty one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset_bytes = 0

    def read_lines(self, *, is_final: bool = False) -> list[bytes]:
        """Returns the next whole lines without their newlines, about 1 MiB at most; empty when there is nothing new.

        `is_final`: nobody writes any more, so a last line without a newline counts too.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset_bytes)
                content = file.read(_READ_BYTES)
                is_at_end = not file.read(1)
        except FileNotFoundError:
            return []
        end = content.rfind(b"\n") + 1
        if end == 0 and len(content) == _READ_BYTES:
            end = len(content)
        if is_final and is_at_end:
            end = len(content)
        self._offset_bytes += end
        return list(_split_lines(content[:end]))


def _split_lines(content: bytes) -> Iterator[bytes]:
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    yield from lines
