"""What an owner's jobs keep on this host between them: a home, downloads, compiled code. Nobody else's job uses it."""

import fcntl
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.settings import Settings
from worker.cage import find_trainer_user, give_folder

logger = logging.getLogger(__name__)

OWNERS_FOLDER = "owners"
"""Below the data folder."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class OwnerFolder:
    """The folder of one owner."""

    root: Path

    @property
    def home(self) -> Path:
        """HOME of the owner's jobs."""
        return self.root / "home"

    @property
    def cache(self) -> Path:
        """Where libraries keep what they could make or fetch again."""
        return self.home / ".cache"

    @contextmanager
    def hold(self) -> Iterator[None]:
        """While it is held nothing is removed from it; several may hold it."""
        with self._open_lock() as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield

    def prune(self, max_bytes: int | None) -> int:
        """Removes what was used least recently until the cache fits; returns the bytes removed.

        Nothing while a job of the owner runs on this host: it may be reading there.
        """
        if max_bytes is None:
            return 0
        with self._open_lock() as descriptor:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return 0
            return _remove_least_used(self.cache, max_bytes=max_bytes)

    @contextmanager
    def _open_lock(self) -> Iterator[int]:
        # Beside the folder: what lies in it is the jobs'.
        path = self.root.with_name(f".{self.root.name}.lock")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def make_owner_folder(settings: Settings, owner: str) -> OwnerFolder:
    """Returns the owner's folder, made where it is missing. Raises OSError."""
    name = owner if _PLAIN_NAME.fullmatch(owner) else hashlib.sha256(owner.encode()).hexdigest()[:32]
    folder = OwnerFolder(settings.data_dir / OWNERS_FOLDER / name)
    is_new = not folder.root.exists()
    folder.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    user = find_trainer_user(settings)
    if is_new or (user is not None and folder.root.stat().st_uid != user[0]):
        for each in (folder.home, folder.cache):
            each.mkdir(exist_ok=True, mode=0o700)
        give_folder(folder.root, user)
    return folder


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    num_bytes: int
    used_at: float
    """Unix seconds, as exact as the file system keeps it: often to a day."""


def _remove_least_used(cache: Path, *, max_bytes: int) -> int:
    # A job may have put a link where a folder was: what it leads to is no cache.
    if cache.is_symlink() or cache.parent.is_symlink():
        return 0
    entries = sorted((_measure(path) for path in _list_entries(cache)), key=lambda entry: entry.used_at)
    surplus = sum(entry.num_bytes for entry in entries) - max_bytes
    removed = 0
    for entry in entries:
        if removed >= surplus:
            break
        _remove(entry.path)
        removed += entry.num_bytes
    if removed:
        logger.info("removed %d bytes of %s, used least recently", removed, cache)
    return removed


def _list_entries(cache: Path) -> Iterator[Path]:
    """Repositories of the hub one by one, and the folders of other libraries each as a whole."""
    hub = Path("huggingface", "hub")
    for folder, opened in ((cache, {"huggingface"}), (cache / hub.parent, {"hub"}), (cache / hub, set())):
        if folder.is_symlink() or not folder.is_dir():
            # Nor what lies below it by name.
            return
        for path in folder.iterdir():
            if path.name not in opened or path.is_symlink():
                yield path


def _measure(path: Path) -> _Entry:
    facts = path.lstat()
    num_bytes, used_at = facts.st_size, facts.st_mtime
    for parent, _, names in os.walk(path, followlinks=False):
        for name in names:
            facts = Path(parent, name).lstat()
            num_bytes += facts.st_size
            used_at = max(used_at, facts.st_atime, facts.st_mtime)
    return _Entry(path, num_bytes, used_at)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
