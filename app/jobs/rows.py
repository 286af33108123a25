"""A job as the database holds it, and its ways to the view of its owner."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import JsonValue
from sqlalchemy import RowMapping

from app.jobs.views import JobError, JobView, Progress, Resources, StepView
from app.states import JobStatus, StepStatus


@dataclass(frozen=True, slots=True)
class JobRow:
    """Every column of `jobs`, and `now`: the database's clock when the row was read."""

    id: str
    owner: str
    status: JobStatus
    name: str | None
    metadata: Mapping[str, str]
    config: Mapping[str, JsonValue]
    step: str | None
    steps: tuple[StepView, ...]
    progress: Progress
    training_file: str | None
    validation_file: str | None
    calibration_file: str | None
    input_job: str | None
    num_gpus: int | None
    required_keys: Mapping[str, str]
    priority: int
    max_attempts: int
    max_runtime_seconds: float | None
    attempt: int
    failures: int
    last_seq: int
    cancel_requested_at: float | None
    worker_id: str | None
    gpus: tuple[int, ...]
    dispatched_at: float | None
    lease_expires_at: float | None
    error: JobError | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    queued_at: float | None
    not_before: float | None
    pause_requested_at: float | None
    preempt_requested_at: float | None
    discard_requested_at: float | None
    keep_days: float | None
    traceparent: str | None
    now: float


def parse_row(row: RowMapping | Mapping[str, Any]) -> JobRow:
    """The typed form of a row, by column name."""
    values: dict[str, Any] = dict(row)
    values["status"] = JobStatus(values["status"])
    values["steps"] = tuple(_parse_step(step) for step in values["steps"])
    values["progress"] = Progress(**values["progress"])
    values["gpus"] = tuple(values["gpus"])
    values["error"] = parse_error(values["error"])
    return JobRow(**values)


def parse_error(value: Mapping[str, str | None] | None) -> JobError | None:
    """The error of a JSON column."""
    return None if value is None else JobError(**value)  # type: ignore[arg-type]


def dump_error(error: JobError | None) -> dict[str, str | None] | None:
    """The error for a JSON column."""
    return None if error is None else asdict(error)


def dump_steps(steps: Sequence[StepView]) -> list[dict[str, Any]]:
    """The steps for a JSON column."""
    return [
        {
            "name": step.name,
            "status": step.status.value,
            "started_at": step.started_at,
            "finished_at": step.finished_at,
            "error": dump_error(step.error),
            "facts": step.facts,
        }
        for step in steps
    ]


def dump_progress(progress: Progress) -> dict[str, Any]:
    """The progress for a JSON column."""
    return asdict(progress)


def as_view(row: JobRow) -> JobView:
    """The job as its owner sees it."""
    return JobView(
        id=row.id,
        status=row.status,
        step=row.step,
        steps=row.steps,
        progress=row.progress,
        config=row.config,
        resources=Resources(gpus=row.num_gpus),
        priority=row.priority,
        attempt=row.attempt,
        failures=row.failures,
        error=row.error,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        name=row.name,
        metadata=row.metadata,
        stop_requested=_find_stop_requested(row),
        not_before=row.not_before,
        keep_days=row.keep_days,
    )


def _find_stop_requested(row: JobRow) -> Literal["cancel", "pause"] | None:
    if row.status is not JobStatus.RUNNING:
        return None
    if row.cancel_requested_at is not None:
        return "cancel"
    return "pause" if row.pause_requested_at is not None else None


def _parse_step(value: Mapping[str, Any]) -> StepView:
    return StepView(
        name=value["name"],
        status=StepStatus(value["status"]),
        started_at=value["started_at"],
        finished_at=value["finished_at"],
        error=parse_error(value["error"]),
        # A row of an earlier version has none.
        facts=value.get("facts"),
    )
