"""Every change of a job's state as a pure function: the new column values and the event that tells of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from app.jobs.commands import NewEvent, Outcome
from app.jobs.errors import InvalidTransition
from app.jobs.rows import JobRow, dump_error, dump_progress, dump_steps
from app.jobs.step_states import cancel_steps, complete_steps, fail_steps, reset_steps
from app.jobs.views import JobError, Progress
from app.states import FINAL_STATUSES, JobStatus, can_follow

LOST_LEASE = JobError(code="lease_lost", message="the worker that ran the job gave no sign of life")


@dataclass(frozen=True, slots=True)
class Change:
    """New values of a job's columns and the events to append; `outcome` is set when an attempt ends with it."""

    values: Mapping[str, Any]
    events: tuple[NewEvent, ...] = ()
    outcome: str | None = None


def start(job: JobRow, *, worker_id: str, gpus: tuple[int, ...], lease_seconds: float) -> Change:
    """The claim: a new attempt, its lease, its GPUs."""
    attempt = job.attempt + 1
    values = {
        "attempt": attempt,
        "worker_id": worker_id,
        "gpus": list(gpus),
        "num_gpus": len(gpus),
        "lease_expires_at": job.now + lease_seconds,
        "started_at": job.started_at or job.now,
    }
    event = NewEvent("job.running", data={"attempt": attempt, "worker_id": worker_id, "gpus": list(gpus)})
    return _move(job, JobStatus.RUNNING, values=values, event=event)


def end_attempt(job: JobRow, outcome: Outcome) -> Change:
    """What becomes of a running job when its attempt ended as the worker says."""
    if outcome.kind == "succeeded":
        # A cancel request that came too late loses: the work is done.
        values = {"steps": dump_steps(complete_steps(job.steps, now=job.now)), "error": None}
        return _finish(job, JobStatus.SUCCEEDED, values=values, event=NewEvent("job.succeeded"), outcome="succeeded")
    if outcome.kind == "cancelled":
        return cancel(job, outcome="cancelled")
    if outcome.kind == "requeued":
        if job.cancel_requested_at is not None:
            return cancel(job, outcome="cancelled")
        return _requeue(job, failures=job.failures, event=NewEvent("job.requeued"), outcome="requeued")
    error = outcome.error or JobError(code="internal_error", message="the worker gave no reason")
    return _fail_or_requeue(job, error, retryable=outcome.retryable, outcome="failed")


def lose_lease(job: JobRow) -> Change:
    """What becomes of a running job whose lease ran out."""
    return _fail_or_requeue(job, LOST_LEASE, retryable=True, outcome="lost")


def request_cancel(job: JobRow) -> Change | None:
    """A cancel by the owner: at once while no worker has the job, else a request; None when nothing changes.

    Raises InvalidTransition for a job that has succeeded or failed.
    """
    if job.status is JobStatus.CANCELLED:
        return None
    if job.status in FINAL_STATUSES:
        raise InvalidTransition(f"job {job.id} has {job.status} and cannot be cancelled")
    if job.status is JobStatus.RUNNING:
        return Change({"cancel_requested_at": job.now}) if job.cancel_requested_at is None else None
    return cancel(job)


def cancel(job: JobRow, *, outcome: str | None = None) -> Change:
    """The job ends as cancelled."""
    values = {"steps": dump_steps(cancel_steps(job.steps, now=job.now))}
    return _finish(job, JobStatus.CANCELLED, values=values, event=NewEvent("job.cancelled"), outcome=outcome)


def fail(job: JobRow, error: JobError, *, failures: int, outcome: str | None = None) -> Change:
    """The job ends as failed with this error."""
    values = {
        "steps": dump_steps(fail_steps(job.steps, error, now=job.now)),
        "error": dump_error(error),
        "failures": failures,
    }
    event = NewEvent("job.failed", message=error.message, level="error", step=error.step, data={"code": error.code})
    return _finish(job, JobStatus.FAILED, values=values, event=event, outcome=outcome)


def retry(job: JobRow) -> Change:
    """The owner sends a failed or cancelled job back to the queue; raises InvalidTransition for any other."""
    if job.status not in (JobStatus.FAILED, JobStatus.CANCELLED):
        raise InvalidTransition(f"job {job.id} is {job.status}; only a failed or cancelled job can be retried")
    values = {
        "failures": 0,
        "error": None,
        "cancel_requested_at": None,
        "finished_at": None,
        "started_at": None,
        "progress": dump_progress(Progress()),
        "steps": dump_steps(reset_steps(job.steps)),
        **_RELEASED,
    }
    return _move(job, JobStatus.QUEUED, values=values, event=NewEvent("job.queued", message="retried"))


_RELEASED: Mapping[str, Any] = {
    "worker_id": None,
    "gpus": [],
    "lease_expires_at": None,
    "dispatched_at": None,
    "step": None,
}


def _fail_or_requeue(job: JobRow, error: JobError, *, retryable: bool, outcome: str) -> Change:
    if retryable and job.cancel_requested_at is not None:
        return cancel(job, outcome=outcome)
    failures = job.failures + 1 if retryable else job.failures
    if not retryable or failures >= job.max_attempts:
        return fail(job, error, failures=failures, outcome=outcome)
    data: dict[str, JsonValue] = {"code": error.code, "failures": failures, "max_attempts": job.max_attempts}
    event = NewEvent("job.requeued", message=error.message, level="warning", step=error.step, data=data)
    return _requeue(job, failures=failures, event=event, outcome=outcome)


def _requeue(job: JobRow, *, failures: int, event: NewEvent, outcome: str) -> Change:
    values = {"failures": failures, "steps": dump_steps(reset_steps(job.steps)), **_RELEASED}
    return _move(job, JobStatus.QUEUED, values=values, event=event, outcome=outcome)


def _finish(
    job: JobRow, status: JobStatus, *, values: Mapping[str, Any], event: NewEvent, outcome: str | None
) -> Change:
    return _move(job, status, values={**values, **_RELEASED, "finished_at": job.now}, event=event, outcome=outcome)


def _move(
    job: JobRow, status: JobStatus, *, values: Mapping[str, Any], event: NewEvent, outcome: str | None = None
) -> Change:
    assert can_follow(job.status, status), f"{job.status} -> {status}"
    return Change(values={**values, "status": status.value}, events=(event,), outcome=outcome)
