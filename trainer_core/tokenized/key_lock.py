"""The lock of one key of the cache: whoever writes or removes holds it alone, whoever reads shares it."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self


class HeldLock:
    """A lock that is held until it is released, collected, or until the last process that inherited it has ended."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """May be called again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def remove_file(self) -> None:
        """For the one who holds it alone and has removed what it guards; whoever waits for it opens a new file."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


def try_lock(entry: Path, *, shared: bool) -> HeldLock | None:
    """The lock of an entry's folder, which need not exist; None while others hold it so that it cannot be had now.

    Raises OSError, also where the file system has no locks.
    """
    path = get_lock_path(entry)
    lock = HeldLock(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    try:
        descriptor = lock._descriptor
        if descriptor is None:
            raise AssertionError("a new lock is held")
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        is_removed = os.fstat(descriptor).st_nlink == 0
    except BaseException as error:
        lock.release()
        if isinstance(error, BlockingIOError):
            return None
        raise
    if is_removed:
        lock.release()
        return None
    return lock


def get_lock_path(entry: Path) -> Path:
    """Beside the entry, so that it outlives the folder."""
    return entry.with_name(f".{entry.name}.lock")
