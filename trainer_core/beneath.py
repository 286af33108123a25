"""Files below a folder that somebody else fills: opened without following any link out of it. Standard library only."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A pipe that lies there under the name of a file would hold up whoever opens it.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_NO_SUCH_KIND = frozenset({errno.ELOOP, errno.ENOTDIR, errno.ENXIO})
"""What the kernel says of a link, of a link where a folder is due, and of a socket."""


class NotBeneath(ValueError):
    """A path that is absolute, climbs out of its folder, leads over a link, or is no regular file."""


def check_relative(path: str) -> str:
    """Returns the path when it names something below a folder: relative, without `..`. Raises NotBeneath."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path or "\\" in path:
        raise NotBeneath(f"{path!r} is no path below the folder")
    return path


@contextmanager
def open_beneath(root: Path, path: str) -> Iterator[BinaryIO]:
    """Opens a regular file below `root` for reading; what leads to `root` itself is trusted.

    Raises NotBeneath; OSError, FileNotFoundError among others.
    """
    parts = PurePosixPath(check_relative(path)).parts
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in parts[:-1]:
            folder = _exchange(folder, _open_in(folder, name, _FOLDER))
        descriptor = _open_in(folder, parts[-1], _FILE)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotBeneath(f"{path!r} is no regular file")
    with open(descriptor, "rb") as file:
        yield file


def read_beneath(root: Path, path: str, *, max_bytes: int = 64 << 20) -> bytes:
    """The content of a regular file below `root`. Raises as `open_beneath`, and NotBeneath for one that is larger."""
    with open_beneath(root, path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise NotBeneath(f"{path!r} is larger than {max_bytes} bytes")
    return content


def list_files_beneath(root: Path) -> list[str]:
    """The regular files below `root` as sorted relative paths; links are neither listed nor followed.

    What is removed meanwhile is left out.
    """
    found = []
    for folder, _, names in os.walk(root, followlinks=False):
        for name in names:
            path = Path(folder, name)
            with suppress(FileNotFoundError):
                if stat.S_ISREG(path.lstat().st_mode):
                    found.append(path.relative_to(root).as_posix())
    return sorted(found)


def _open_in(folder: int, name: str, flags: int) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError as error:
        if error.errno not in _NO_SUCH_KIND:
            raise
        raise NotBeneath(f"{name!r} is a link or no regular file ({error.strerror})") from error


def _exchange(old: int, new: int) -> int:
    os.close(old)
    return new
