"""What the job service answers: frozen pictures of a job and of what belongs to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Literal, TypeVar

from pydantic import JsonValue

from app.states import JobStatus, StepStatus

Row = TypeVar("Row")


@dataclass(frozen=True)
class Page(Generic[Row]):
    """One page of a list; `has_more` says that further rows lie behind it."""

    data: list[Row]
    has_more: bool


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job or a step failed; `param` names the Config field to change, where one is to blame."""

    code: str
    message: str
    param: str | None = None
    step: str | None = None


@dataclass(frozen=True, slots=True)
class StepView:
    name: str
    status: StepStatus
    started_at: float | None = None
    finished_at: float | None = None
    error: JobError | None = None
    facts: Mapping[str, JsonValue] | None = None
    """What the step found out and made, as it said when it was done; None before."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The newest figures of the running step; None where the step has not said."""

    global_step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """`gpus` None: one GPU where the installation has any, else none; decided when the fleet is known."""

    gpus: int | None = None


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as its owner sees it. Times are unix seconds; secrets in `config` are None."""

    id: str
    status: JobStatus
    step: str | None
    steps: tuple[StepView, ...]
    progress: Progress
    config: Mapping[str, JsonValue]
    resources: Resources
    priority: int
    attempt: int
    failures: int
    error: JobError | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    name: str | None
    metadata: Mapping[str, str]
    stop_requested: Literal["cancel", "pause"] | None
    """What a running job was asked for and has not obeyed yet."""
    not_before: float | None
    """After a failure: when the next attempt may begin."""
    keep_days: float | None
    """Days from its end to its removal; None: as the installation says."""


@dataclass(frozen=True, slots=True)
class ArtifactView:
    """One published file; `name` is its folder (data, adapter, model, fused, quantized), `path` starts with it."""

    id: str
    job_id: str
    name: str
    path: str
    num_bytes: int
    sha256: str
    storage_key: str
    created_at: float


@dataclass(frozen=True, slots=True, order=True)
class LogCursor:
    """A place in a job's log: the line `line` (from 1) of attempt `attempt`."""

    attempt: int
    line: int


@dataclass(frozen=True, slots=True)
class LogLine:
    attempt: int
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class LogPiece:
    """A part of a job's whole output; it never changes."""

    attempt: int
    first_line: int
    num_bytes: int
    storage_key: str


@dataclass(frozen=True, slots=True)
class WholeLog:
    """The output of all attempts as far as it is stored, in order; `is_final`: no more will come, unless retried."""

    pieces: tuple[LogPiece, ...]
    is_final: bool


@dataclass(frozen=True, slots=True)
class Submitted:
    """`replayed`: the idempotency key was known and `job` is the job it made before."""

    job: JobView
    replayed: bool


class StopRequest(StrEnum):
    """What a running job is asked for: all but the last one let the step save a checkpoint."""

    PREEMPT = "preempt"
    PAUSE = "pause"
    CANCEL = "cancel"
    DISCARD = "discard"
    """Cancelled, and what is not saved is not wanted."""


@dataclass(frozen=True, slots=True)
class LeaseView:
    stop_request: StopRequest | None
    """The weightiest of the requests that stand; a pause may be taken back."""


@dataclass(frozen=True, slots=True)
class FileRef:
    """An uploaded file as a worker needs it: where it lies in storage and how to check it."""

    id: str
    storage_key: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class InputJobRef:
    """The job named by `input_job`; `artifacts` by folder name (data, adapter, model, fused, quantized)."""

    job_id: str
    artifacts: Mapping[str, tuple[ArtifactView, ...]]


@dataclass(frozen=True, slots=True)
class ClaimInputs:
    training_file: FileRef | None = None
    validation_file: FileRef | None = None
    calibration_file: FileRef | None = None
    input_job: InputJobRef | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that is now the claimer's: `attempt` is its fence, `gpus` are the device indices it may use."""

    job_id: str
    attempt: int
    owner: str
    config: Mapping[str, JsonValue]
    secrets: Mapping[str, str] = field(repr=False)
    steps: tuple[str, ...]
    gpus: tuple[int, ...]
    inputs: ClaimInputs
    max_runtime_seconds: float | None
    """What is left for this attempt of the job's own bound."""
    priority: int
    traceparent: str | None = None
    """W3C trace context of the submission."""
