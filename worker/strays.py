"""Ends what an earlier attempt at a job still runs on this host: its supervisor may be frozen, and its lease is over.

A supervisor that hangs longer than a lease, in a frozen virtual machine or on a disk that does not answer, leaves its
pipeline training. Two attempts in one workspace would remove each other's checkpoints.
"""

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from trainer_core.watchdog import find_descendants

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.02


def end_strays(root: Path, *, before_attempt: int, timeout_seconds: float = 10.0) -> int:
    """Kills the processes of attempts before this one in the workspace `root`, with all that they started.

    Returns how many there were. Raises TimeoutError when one outlives SIGKILL. Later attempts are left alone: it may
    be this one that is late.
    """
    deadline = time.monotonic() + timeout_seconds
    killed: set[int] = set()
    while strays := list(_find_strays(root, before_attempt)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes of an earlier attempt do not end: {strays}")
        for pid in strays:
            for each in (pid, *find_descendants(pid)):
                killed.add(each)
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
        time.sleep(_PAUSE_SECONDS)
    if killed:
        logger.warning("%d processes of an earlier attempt in %s were ended", len(killed), root.name)
    return len(killed)


def _find_strays(root: Path, before_attempt: int) -> Iterator[int]:
    """Every program of an attempt is told its workspace and its attempt: pipeline, steps, ranks, pushes."""
    workspace = os.fsencode(root)
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        try:
            argv = Path(entry.path, "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        # A zombie has no command line: it holds nothing any more.
        if _read_option(argv, b"--workspace") != workspace:
            continue
        attempt = _read_option(argv, b"--attempt") or b""
        if attempt.isdigit() and int(attempt) < before_attempt:
            yield int(entry.name)


def _read_option(argv: list[bytes], name: bytes) -> bytes | None:
    try:
        return argv[argv.index(name) + 1]
    except (ValueError, IndexError):
        return None
