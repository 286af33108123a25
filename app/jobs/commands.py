"""What the job service takes: a submission from a user, events, artifacts and an outcome from a worker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from app.jobs.views import JobError, Resources

OutcomeKind = Literal["succeeded", "failed", "cancelled", "requeued"]


@dataclass(frozen=True, slots=True)
class JobSubmission:
    """The body of `POST /v1/jobs`. `steps` None: the defaults of the config."""

    config: Mapping[str, object] = field(repr=False)
    steps: Sequence[str] | None = None
    training_file: str | None = None
    validation_file: str | None = None
    input_job: str | None = None
    resources: Resources = field(default_factory=Resources)
    priority: int = 0
    max_attempts: int = 3
    max_runtime_seconds: float | None = None
    keep_days: float | None = None
    name: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    traceparent: str | None = field(default=None, compare=False)
    """W3C trace context of the request; no part of what was asked for, so that a repetition is the same submission."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event before it is numbered. `created_at` None: now, by the database's clock."""

    type: str
    message: str = ""
    level: str = "info"
    step: str | None = None
    data: Mapping[str, JsonValue] = field(default_factory=dict)
    created_at: float | None = None


@dataclass(frozen=True, slots=True)
class NewArtifact:
    """A file that already lies in storage; `path` starts with the folder's `name`."""

    name: str
    path: str
    num_bytes: int
    sha256: str
    storage_key: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. `requeued`: it stopped because it was asked to, which counts as no failure."""

    kind: OutcomeKind
    error: JobError | None = None
    retryable: bool = False
    exit_code: int | None = None
    signal: int | None = None
