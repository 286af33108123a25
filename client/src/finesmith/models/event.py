"""What happened in a job: events and log lines."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from finesmith.wire import JsonValue


@dataclass(frozen=True)
class Event:
    """Something that happened in a job. Events of a job are numbered without holes."""

    id: str
    """`evt-<seq>`: one for each event of a job."""
    type: str
    """Such as `job.running`, `step.started`, `progress`, `metrics`, `checkpoint.saved`, `decision`, `warning`."""
    seq: int = 0
    """Position in the job's events, from 1; what `after` takes."""
    job_id: str | None = None
    """The job that it belongs to."""
    attempt: int | None = None
    """The attempt (1 or more) that said so; None or 0 for what happened outside of any attempt."""
    step: str | None = None
    """`prepare`, `train`, `fuse` or `quantize`; None for what concerns the whole job."""
    level: str = "info"
    """`debug`, `info`, `warning` or `error`."""
    message: str = ""
    """For people; empty where `data` says all."""
    data: Mapping[str, JsonValue] = field(default_factory=dict)
    """For programs; which keys depends on `type`. A `metrics` event holds the training log record."""
    created_at: float | None = None
    """When it happened, in Unix seconds."""
    extra: Mapping[str, JsonValue] = field(default_factory=dict)
    """Fields that this version of the SDK does not know."""


@dataclass(frozen=True)
class LogLine:
    """One line that a job's steps printed."""

    id: str
    """`<attempt>-<line>`: what `after` takes."""
    text: str = ""
    """The line without its line break; secrets are blotted out by the service."""
    attempt: int | None = None
    """The attempt (1 or more) that printed it."""
    line: int | None = None
    """Number of the line in its attempt, from 1."""
    extra: Mapping[str, JsonValue] = field(default_factory=dict)
    """Fields that this version of the SDK does not know."""
