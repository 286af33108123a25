"""Reads what was appended to a growing file, whole lines at a time."""

from collections.abc import Iterator
from pathlib import Path

from trainer_core.beneath import NotBeneath, open_beneath

_READ_BYTES = 1 << 20


class FileTail:
    """A place in a file. A file that is not there yet is an empty one; so is a link, and a way that leads over one."""

    def __init__(self, path: Path, *, root: Path | None = None) -> None:
        """`root`: the folder above the file whose content a job's processes may change. None: the file's own."""
        self._root = root or path.parent
        self._path = path.relative_to(self._root).as_posix()
        self._offset_bytes = 0

    def read_lines(self, *, is_final: bool = False) -> list[bytes]:
        """Returns the next whole lines without their newlines, about 1 MiB at most; empty when there is nothing new.

        `is_final`: nobody writes any more, so a last line without a newline counts too.
        """
        try:
            with open_beneath(self._root, self._path) as file:
                file.seek(self._offset_bytes)
                content = file.read(_READ_BYTES)
                is_at_end = not file.read(1)
        except (FileNotFoundError, NotBeneath):
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
