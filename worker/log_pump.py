"""Carries a job's output to whoever watches, at once, and into storage in chunks that are at most 5 s old."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from worker.file_tail import FileTail
from worker.services import Services
from worker.storage_keys import log_key

_CHUNK_SECONDS = 2.0
_CHUNK_BYTES = 1 << 20
_MAX_PENDING_BYTES = 64 << 20
"""What is held in memory while the storage takes nothing; more waits in the file."""


@dataclass(slots=True)
class _Chunk:
    """Lines that were shown but are not in storage yet."""

    first_line: int
    lines: list[bytes] = field(default_factory=list)
    num_bytes: int = 0
    started_at: float = 0.0


class LogPump:
    """Reads one attempt's output file; lines are numbered from 1."""

    def __init__(
        self,
        path: Path,
        *,
        services: Services,
        job_id: str,
        attempt: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # The path reads attempts/<number>/<file> below the job's workspace.
        self._tail = FileTail(path, root=path.parents[2])
        self._services = services
        self._job_id = job_id
        self._attempt = attempt
        self._clock = clock
        self._chunk = _Chunk(first_line=1)

    def pump(self, *, is_final: bool) -> bool:
        """Publishes new lines and stores a chunk that is due; returns True when there may be more.

        Raises LeaseLost, OSError and the database's errors: the chunk is kept and stored by a later call.
        """
        lines = []
        if self._chunk.num_bytes < _MAX_PENDING_BYTES:
            lines = self._tail.read_lines(is_final=is_final)
            self._show(lines)
        if self._is_chunk_due(is_final=is_final and not lines):
            self._store_chunk()
        return bool(lines)

    def _show(self, lines: list[bytes]) -> None:
        if not lines:
            return
        chunk = self._chunk
        if not chunk.lines:
            chunk.started_at = self._clock()
        next_line = chunk.first_line + len(chunk.lines)
        chunk.lines.extend(lines)
        chunk.num_bytes += sum(len(line) + 1 for line in lines)
        self._services.bus.publish_log(
            self._job_id, self._attempt, next_line, [line.decode(errors="replace") for line in lines]
        )

    def _is_chunk_due(self, *, is_final: bool) -> bool:
        chunk = self._chunk
        if not chunk.lines:
            return False
        age_seconds = self._clock() - chunk.started_at
        return is_final or chunk.num_bytes >= _CHUNK_BYTES or age_seconds >= _CHUNK_SECONDS

    def _store_chunk(self) -> None:
        chunk = self._chunk
        key = log_key(self._job_id, self._attempt, chunk.first_line)
        self._services.storage.write(key, (line + b"\n" for line in chunk.lines))
        self._services.jobs.record_log_chunk(
            self._job_id,
            self._attempt,
            first_line=chunk.first_line,
            num_lines=len(chunk.lines),
            num_bytes=chunk.num_bytes,
            storage_key=key,
        )
        self._chunk = _Chunk(first_line=chunk.first_line + len(chunk.lines))
