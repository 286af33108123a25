"""What stub steps really did, told past the service: one line an act, appended whole to a file that all of them share.

The service's own record may be wrong; this one is written by the processes themselves and compared with it.
"""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Act = Literal["began", "resumed", "trained", "saved", "ended"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One act of one step process."""

    job_id: str
    attempt: int
    step: str
    act: Act
    number: int
    """Of the training step that was resumed from, trained or saved; 0 for other acts."""
    pid: int
    at: float
    """Unix seconds."""


class Journal:
    """Appends for one step process."""

    def __init__(self, path: Path, *, job_id: str, attempt: int, step: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._job_id, self._attempt, self._step = job_id, attempt, step

    def write(self, act: Act, number: int = 0) -> None:
        """Adds one line; a single write keeps lines of several processes whole."""
        entry = Entry(self._job_id, self._attempt, self._step, act, number, os.getpid(), time.time())
        os.write(self._fd, json.dumps(asdict(entry)).encode() + b"\n")


def read_journal(path: Path) -> list[Entry]:
    """All entries, in the order in which they were written; none when there is no file."""
    if not path.exists():
        return []
    return [Entry(**json.loads(line)) for line in path.read_text().splitlines()]
