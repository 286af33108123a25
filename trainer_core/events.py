"""The event file of an attempt: one JSON line an event, appended whole, read by whoever watches the job."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from trainer_core.redaction import Redactor
from trainer_core.types import JsonValue

EventLevel = Literal["info", "warning", "error"]

_LEVELS: frozenset[str] = frozenset({"info", "warning", "error"})


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One line of an event file."""

    type: str
    """What happened, such as `step.started`, `progress`, `metrics` or `checkpoint.saved`."""
    created_at: float
    """Unix seconds, by the clock of the process that wrote the line."""
    step: str | None = None
    """The step that wrote it; None when it belongs to the job as a whole."""
    level: EventLevel = "info"
    message: str = ""
    """One sentence for a person."""
    data: Mapping[str, JsonValue] | None = None
    """Facts for a machine; None when there are none."""

    def to_line(self) -> bytes:
        """Returns the record as one line that ends in a newline; values JSON does not know become their `str`."""
        fields = {
            "type": self.type,
            "step": self.step,
            "level": self.level,
            "message": self.message,
            "data": None if self.data is None else dict(self.data),
            "created_at": self.created_at,
        }
        return json.dumps(_without_nan(fields), ensure_ascii=False, default=str, allow_nan=False).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Reads one line back. Raises ValueError for a line that was cut short or is no event."""
        fields = json.loads(line)
        if not isinstance(fields, dict) or not isinstance(fields.get("type"), str):
            raise ValueError("an event line is a JSON object with a type")
        data = fields.get("data")
        level = fields.get("level")
        return cls(
            type=fields["type"],
            created_at=float(fields.get("created_at") or 0.0),
            step=fields.get("step"),
            level=level if level in _LEVELS else "info",
            message=str(fields.get("message") or ""),
            data=data if isinstance(data, dict) else None,
        )


class EventWriter:
    """Appends events to one file; several processes may hold one each on the same file.

    `O_APPEND` and a single write a line keep lines of different processes whole. Used as a context manager it closes
    its file.
    """

    def __init__(self, path: Path, *, step: str | None = None, redactor: Redactor | None = None) -> None:
        self._step = step
        self._redactor = redactor or Redactor()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def emit(
        self,
        type: str,
        *,
        message: str = "",
        level: EventLevel = "info",
        data: Mapping[str, JsonValue] | None = None,
    ) -> None:
        """Appends one event. Raises OSError (ENOSPC among others): an event is part of the record and never dropped."""
        record = EventRecord(
            type=type, created_at=time.time(), step=self._step, level=level, message=message, data=data
        )
        line = self._redactor.redact(record.to_line())
        written = os.write(self._fd, line)
        if written != len(line):
            # The disk filled in mid-line: the second write raises, or completes a line that another process may have
            # cut into; the reader skips what it cannot parse.
            os.write(self._fd, line[written:])

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _without_nan(value: JsonValue) -> JsonValue:
    """JSON has no NaN and no infinity, and a diverged loss is one: both become null."""
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, dict):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value
