"""How a step and an attempt ended: what is written for whoever waits, and the exit statuses that go with it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, Self

from trainer_core.atomic_file import write_atomically
from trainer_core.beneath import read_beneath
from trainer_core.types import JsonValue

EXIT_SUCCEEDED: Final = 0
EXIT_FAILED: Final = 1
"""The reason lies in a file."""
EXIT_DISK_FULL: Final = 74
"""The disk is so full that the reason could not be written."""
EXIT_INTERRUPTED: Final = 75
"""A stop was asked for and obeyed; the work goes on where it was left."""
EXIT_TERMINATED: Final = 143
"""As 75, from a step that has nothing to save."""

AttemptStatus = Literal["succeeded", "failed", "interrupted"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed, as a job shows it."""

    code: str
    message: str
    param: str | None = None
    """The Config's field at fault."""
    step: str | None = None
    retryable: bool = False
    """Whether the same again may succeed."""

    @classmethod
    def from_fields(cls, fields: Mapping[str, JsonValue]) -> Self:
        """Reads the JSON form. Raises TypeError or KeyError when it is none."""
        return cls(
            code=str(fields["code"]),
            message=str(fields["message"]),
            param=fields.get("param"),
            step=fields.get("step"),
            retryable=bool(fields.get("retryable")),
        )


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """How an attempt ended."""

    status: AttemptStatus
    error: Failure | None = None


def write_failure(path: Path, failure: Failure) -> None:
    """Writes the reason whole or not at all. Raises OSError."""
    write_atomically(path, json.dumps(asdict(failure)))


def read_failure(path: Path) -> Failure | None:
    """Returns the reason, or None when there is no readable one."""
    try:
        return Failure.from_fields(json.loads(read_beneath(path.parent, path.name)))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_result(path: Path, result: AttemptResult) -> None:
    """Writes the result whole or not at all. Raises OSError."""
    write_atomically(path, json.dumps(asdict(result)))


def read_result(path: Path) -> AttemptResult | None:
    """Returns the result, or None when there is no readable one."""
    try:
        fields = json.loads(read_beneath(path.parent, path.name))
        error = fields["error"]
        return AttemptResult(status=fields["status"], error=None if error is None else Failure.from_fields(error))
    except (OSError, ValueError, KeyError, TypeError):
        return None
