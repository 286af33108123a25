"""Metrics on their way to trackers: the training appends them to a file, and a process with network and key reads it.

Light: the pipeline and the sending process import it as well as the training.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trainer_core.types import JsonValue

REMOTE_TRACKERS = ("mlflow", "wandb")
"""Trackers that need a network."""

RecordKind = Literal["start", "log", "finish", "end"]


@dataclass(frozen=True, slots=True)
class TrackingRecord:
    """One line of the file."""

    kind: RecordKind
    """`start`, `log` and `finish` of one tracker; `end`: the training is over, however it went."""
    tracker: str = ""
    run: Mapping[str, JsonValue] = field(default_factory=dict)
    """Of `start`: config, project, run_name, entity."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    step: int = 0
    has_succeeded: bool = False


def append_record(path: Path, record: TrackingRecord) -> None:
    """Appends one line, whole. Raises OSError."""
    fields = {name: getattr(record, name) for name in TrackingRecord.__slots__}
    line = json.dumps(fields, ensure_ascii=False, default=str).encode() + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def tell_end(path: Path) -> None:
    """Tells the sending process that nothing more comes; on a full disk it is killed in the end."""
    try:
        append_record(path, TrackingRecord("end"))
    except OSError:
        return


class TrackingReader:
    """Reads what was appended since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset_bytes = 0

    def read(self) -> Iterator[TrackingRecord]:
        """Yields the next whole records; what is none is left out."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset_bytes)
                content = file.read()
        except FileNotFoundError:
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._offset_bytes += len(whole)
        for line in whole.splitlines():
            try:
                yield TrackingRecord(**json.loads(line))
            except (ValueError, TypeError):
                continue


def reports_elsewhere(config: Mapping[str, Any]) -> bool:
    """Whether a Config's values, not yet validated, name a tracker that needs a network."""
    given = config.get("report_to") or ()
    names = [name.strip() for name in given.split(",")] if isinstance(given, str) else list(given)
    return bool(config.get("report_to_wandb")) or any(name in REMOTE_TRACKERS for name in names)
