"""Every change of a job's state as a pure function: the new column values and the event that tells of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
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
        "not_before": None,
    }
    event = NewEvent("job.running", data={"attempt": attempt, "worker_id": worker_id, "gpus": list(gpus)})
    return _move(job, JobStatus.RUNNING, values=values, event=event)


def end_attempt(job: JobRow, outcome: Outcome, *, backoff_seconds: Sequence[float]) -> Change:
    """What becomes of a running job when its attempt ended as the worker says.

    `backoff_seconds`: how long it waits after its first, second, … failure; the last holds for all that follow.
    """
    if outcome.kind == "succeeded":
        # A request that came too late loses: the work is done.
        values = {"steps": dump_steps(complete_steps(job.steps, now=job.now)), "error": None}
        return _finish(job, JobStatus.SUCCEEDED, values=values, event=NewEvent("job.succeeded"), outcome="succeeded")
    if outcome.kind == "cancelled":
        return cancel(job, outcome="cancelled")
    if outcome.kind == "requeued":
        return _stop(job)
    error = outcome.error or JobError(code="internal_error", message="the worker gave no reason")
    if not outcome.retryable:
        return fail(job, error, failures=job.failures, outcome="failed")
    return _fail_or_requeue(job, error, backoff_seconds=backoff_seconds, outcome="failed")


def lose_lease(job: JobRow, *, backoff_seconds: Sequence[float]) -> Change:
    """What becomes of a running job whose lease ran out."""
    return _fail_or_requeue(job, LOST_LEASE, backoff_seconds=backoff_seconds, outcome="lost")


def request_cancel(job: JobRow, *, save_checkpoint: bool) -> Change | None:
    """A cancel by the owner: at once while no worker has the job, else a request; None when nothing changes.

    Without `save_checkpoint` a running job is killed instead of asked, also when it was asked before. Raises
    InvalidTransition for a job that has succeeded or failed.
    """
    if job.status is JobStatus.CANCELLED:
        return None
    if job.status in FINAL_STATUSES:
        raise InvalidTransition(f"job {job.id} {_describe_end(job)} and cannot be cancelled")
    if job.status is not JobStatus.RUNNING:
        return cancel(job)
    values = {}
    if job.cancel_requested_at is None:
        values["cancel_requested_at"] = job.now
    if not save_checkpoint and job.discard_requested_at is None:
        values["discard_requested_at"] = job.now
    return Change(values) if values else None


def request_pause(job: JobRow) -> Change | None:
    """A pause by the owner: at once while no worker has the job, else a request; None when nothing changes.

    Raises InvalidTransition for a job that is over or being cancelled.
    """
    if job.status is JobStatus.PAUSED:
        return None
    if job.status in FINAL_STATUSES or job.cancel_requested_at is not None:
        raise InvalidTransition(f"job {job.id} {_describe_end(job)} and cannot be paused")
    if job.status is JobStatus.RUNNING:
        return Change({"pause_requested_at": job.now}) if job.pause_requested_at is None else None
    return _pause(job)


def request_resume(job: JobRow) -> Change | None:
    """The owner's word that a paused job goes on, or that a pause not yet obeyed is off; None when nothing changes.

    The job keeps its place: among those of its priority the oldest goes first. Raises InvalidTransition for a job that
    is over or being cancelled.
    """
    if job.status in FINAL_STATUSES or job.cancel_requested_at is not None:
        raise InvalidTransition(f"job {job.id} {_describe_end(job)} and cannot be resumed")
    if job.status is JobStatus.PAUSED:
        return _move(job, JobStatus.QUEUED, values={"queued_at": job.now}, event=NewEvent("job.resumed"))
    return Change({"pause_requested_at": None}) if job.pause_requested_at is not None else None


def request_preemption(job: JobRow, *, for_job: str) -> Change:
    """Asks a running job to make room for one of a higher priority."""
    event = NewEvent("decision", message=f"makes room for {for_job}, whose priority is higher")
    return Change({"preempt_requested_at": job.now}, (event,))


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
        "queued_at": job.now,
        "not_before": None,
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
    "pause_requested_at": None,
    "preempt_requested_at": None,
    "discard_requested_at": None,
}


def _fail_or_requeue(job: JobRow, error: JobError, *, backoff_seconds: Sequence[float], outcome: str) -> Change:
    if job.cancel_requested_at is not None:
        return cancel(job, outcome=outcome)
    failures = job.failures + 1
    if failures >= job.max_attempts:
        return fail(job, error, failures=failures, outcome=outcome)
    wait_seconds = backoff_seconds[min(failures, len(backoff_seconds)) - 1] if backoff_seconds else 0.0
    values = {"failures": failures, "not_before": job.now + wait_seconds if wait_seconds else None}
    if job.pause_requested_at is not None:
        return _pause(job, values=values, outcome=outcome)
    data: dict[str, JsonValue] = {
        "code": error.code,
        "failures": failures,
        "max_attempts": job.max_attempts,
        "wait_seconds": wait_seconds,
    }
    event = NewEvent("job.requeued", message=error.message, level="warning", step=error.step, data=data)
    return _requeue(job, values=values, event=event, outcome=outcome)


def _stop(job: JobRow) -> Change:
    """The attempt stopped because it was asked to: the row says for what. A stop counts as no failure."""
    if job.cancel_requested_at is not None:
        return cancel(job, outcome="cancelled")
    if job.pause_requested_at is not None:
        return _pause(job, outcome="paused")
    reason = "worker_stopped" if job.preempt_requested_at is None else "preempted"
    event = NewEvent("job.requeued", message=_REQUEUE_MESSAGES[reason], data={"reason": reason})
    return _requeue(job, values={}, event=event, outcome="requeued")


_REQUEUE_MESSAGES = {
    "worker_stopped": "its worker was stopped; it goes on from its last checkpoint",
    "preempted": "it made room for a job of a higher priority and goes on from its last checkpoint",
}


def _pause(job: JobRow, *, values: Mapping[str, Any] = MappingProxyType({}), outcome: str | None = None) -> Change:
    values = {"steps": dump_steps(reset_steps(job.steps)), **_RELEASED, **values}
    return _move(job, JobStatus.PAUSED, values=values, event=NewEvent("job.paused"), outcome=outcome)


def _requeue(job: JobRow, *, values: Mapping[str, Any], event: NewEvent, outcome: str) -> Change:
    values = {"steps": dump_steps(reset_steps(job.steps)), "queued_at": job.now, **_RELEASED, **values}
    return _move(job, JobStatus.QUEUED, values=values, event=event, outcome=outcome)


def _describe_end(job: JobRow) -> str:
    if job.status is JobStatus.CANCELLED:
        return "was cancelled"
    return f"has {job.status}" if job.status in FINAL_STATUSES else "is being cancelled"


def _finish(
    job: JobRow, status: JobStatus, *, values: Mapping[str, Any], event: NewEvent, outcome: str | None
) -> Change:
    return _move(job, status, values={**values, **_RELEASED, "finished_at": job.now}, event=event, outcome=outcome)


def _move(
    job: JobRow, status: JobStatus, *, values: Mapping[str, Any], event: NewEvent, outcome: str | None = None
) -> Change:
    assert can_follow(job.status, status), f"{job.status} -> {status}"
    return Change(values={**values, "status": status.value}, events=(event,), outcome=outcome)
