"""The folder in which tokenised samples are kept from run to run."""

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from trainer_core.tokenized.entry import FACTS, measure_bytes
from trainer_core.tokenized.key_lock import HeldLock, try_lock

MAX_CACHE_BYTES = 20 * 1024**3

_PARTIAL = ".partial"
_LOCK = ".lock"

logger = logging.getLogger(__name__)


def find_token_cache() -> Path:
    """`finesmith/tokens` in the user's cache folder, which in a job is its owner's; it need not exist."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has a relative path ignored.
    cache = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    return cache / "finesmith" / "tokens"


def get_partial_path(entry: Path) -> Path:
    """The folder in which an entry is written before it gets its name."""
    return entry.with_name(f".{entry.name}{_PARTIAL}")


def prune_token_cache(folder: Path, *, max_bytes: int = MAX_CACHE_BYTES) -> int:
    """Removes what killed processes left, then what was used least recently until the rest fits; returns the bytes.

    Nothing is removed that a process reads or writes: the cache may be larger than `max_bytes` for that time. Raises
    OSError for a folder that cannot be read.
    """
    if not folder.is_dir():
        return 0
    removed = sum(_remove_abandoned(folder, path.name) for path in folder.glob(f".*{_PARTIAL}"))
    entries = sorted(_list_entries(folder), key=lambda entry: entry.used_at)
    surplus = sum(entry.num_bytes for entry in entries) - max_bytes
    for entry in entries:
        if surplus <= 0:
            break
        if _remove_entry(entry.path):
            surplus -= entry.num_bytes
            removed += entry.num_bytes
    if removed:
        logger.info("removed %d bytes of tokenised samples from %s", removed, folder)
    return removed


def mark_used(entry: Path) -> None:
    """Makes it the entry used last."""
    os.utime(entry / FACTS)


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    num_bytes: int
    used_at: float
    """Unix seconds."""


def _list_entries(folder: Path) -> list[_Entry]:
    entries = []
    for path in folder.iterdir():
        if path.name.startswith(".") or not path.is_dir() or path.is_symlink():
            continue
        facts = path / FACTS
        used_at = facts.stat().st_mtime if facts.exists() else 0.0
        entries.append(_Entry(path, measure_bytes(path), used_at))
    return entries


def _remove_abandoned(folder: Path, name: str) -> int:
    """Of a partial entry whose writer is gone: a living one holds its lock."""
    entry = folder / name.removeprefix(".").removesuffix(_PARTIAL)
    lock = try_lock(entry, shared=False)
    if lock is None:
        return 0
    with lock:
        partial = get_partial_path(entry)
        num_bytes = measure_bytes(partial)
        shutil.rmtree(partial, ignore_errors=True)
        _drop_lock_of_nothing(lock, entry)
    return num_bytes


def _remove_entry(entry: Path) -> bool:
    lock = try_lock(entry, shared=False)
    if lock is None:
        return False
    with lock:
        # First its facts: should the removal be cut short, the rest is no entry.
        (entry / FACTS).unlink(missing_ok=True)
        shutil.rmtree(entry, ignore_errors=True)
        _drop_lock_of_nothing(lock, entry)
    return True


def _drop_lock_of_nothing(lock: HeldLock, entry: Path) -> None:
    if not entry.exists():
        lock.remove_file()
