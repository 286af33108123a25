"""Carries the event lines of a workspace into the database, which numbers them and tells the bus."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from app.jobs.commands import NewEvent
from trainer_core.events import EventRecord
from worker.file_tail import FileTail
from worker.services import Services
from worker.tracing import follow_step

logger = logging.getLogger(__name__)

_MAX_BATCH = 500


class EventPump:
    """Reads one attempt's event file. `on_recorded` is called with every event after it is in the database."""

    def __init__(
        self, path: Path, *, services: Services, job_id: str, attempt: int, on_recorded: Callable[[EventRecord], None]
    ) -> None:
        # The path reads attempts/<number>/<file> below the job's workspace.
        self._tail = FileTail(path, root=path.parents[2])
        self._services = services
        self._job_id = job_id
        self._attempt = attempt
        self._on_recorded = on_recorded
        self._pending: list[EventRecord] = []
        self.running_step: str | None = None
        """The step that has started and not finished, by what was recorded."""

    def pump(self, *, is_final: bool) -> bool:
        """Records what is there; returns True when there may be more. Raises LeaseLost and the database's errors."""
        if not self._pending:
            self._pending = _parse_lines(self._tail.read_lines(is_final=is_final))
        if not self._pending:
            return False
        batch = self._pending[:_MAX_BATCH]
        with self._services.recording:
            self._services.jobs.record_events(self._job_id, self._attempt, [_to_new_event(record) for record in batch])
        del self._pending[:_MAX_BATCH]
        for record in batch:
            if record.type.startswith("step."):
                self.running_step = record.step if record.type == "step.started" else None
            follow_step(record)
            self._on_recorded(record)
        return True


def _parse_lines(lines: Sequence[bytes]) -> list[EventRecord]:
    records = []
    for line in lines:
        try:
            records.append(EventRecord.from_line(line))
        except (ValueError, TypeError):
            # A disk that filled up in the middle of a line leaves half of one.
            logger.warning("an event line of %d bytes cannot be read and is left out", len(line))
    return records


def _to_new_event(record: EventRecord) -> NewEvent:
    return NewEvent(
        type=record.type,
        message=record.message,
        level=record.level,
        step=record.step,
        data=dict(record.data or {}),
        created_at=record.created_at or None,
    )
