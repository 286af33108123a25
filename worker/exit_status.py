"""What the end of a pipeline means for its job."""

import signal
from dataclasses import replace
from enum import StrEnum

from app.jobs.commands import Outcome
from app.jobs.views import JobError
from trainer_core.attempt.outcome import EXIT_DISK_FULL, EXIT_INTERRUPTED, EXIT_SUCCEEDED, AttemptResult, Failure
from trainer_core.attempt.step_exit import describe_signal
from trainer_core.errors import DiskFullError, HostMemoryError


class StopReason(StrEnum):
    """Why the supervisor asked a pipeline to stop."""

    CANCEL = "cancel"
    MAX_RUNTIME = "max_runtime"
    PUT_OFF = "put_off"
    """Paused, making room, or its worker goes down: the job's row says which."""


def classify_exit(
    status: int, *, result: AttemptResult | None, stop_reason: StopReason | None, had_oom_kill: bool
) -> Outcome:
    """Returns the outcome of an attempt.

    `status` is negative for a signal; `result` is what the pipeline wrote, if it came to that; `stop_reason` is ours.
    What was finished in spite of a stop is finished.
    """
    exit_code, number = (status, None) if status >= 0 else (None, -status)
    if status == EXIT_SUCCEEDED:
        return Outcome("succeeded", exit_code=exit_code)
    if stop_reason is StopReason.CANCEL:
        return Outcome("cancelled", exit_code=exit_code, signal=number)
    if stop_reason is StopReason.MAX_RUNTIME:
        error = JobError(
            "max_runtime_exceeded", "the job ran longer than its max_runtime_seconds", "max_runtime_seconds"
        )
        return Outcome("failed", error=error, exit_code=exit_code, signal=number)
    failure = result.error if result is not None else None
    if stop_reason is StopReason.PUT_OFF and failure is None:
        return Outcome("requeued", exit_code=exit_code, signal=number)
    if failure is None:
        failure = _guess_failure(status, had_oom_kill=had_oom_kill)
    return Outcome(
        "failed", error=to_job_error(failure), retryable=failure.retryable, exit_code=exit_code, signal=number
    )


def name_step(outcome: Outcome, step: str | None) -> Outcome:
    """Returns the outcome with the step that was running, where its error names none."""
    if outcome.error is None or outcome.error.step is not None:
        return outcome
    return replace(outcome, error=replace(outcome.error, step=step))


def to_job_error(failure: Failure) -> JobError:
    """Returns the failure as a job shows it."""
    return JobError(code=failure.code, message=failure.message, param=failure.param, step=failure.step)


def _guess_failure(status: int, *, had_oom_kill: bool) -> Failure:
    if status == EXIT_DISK_FULL:
        return Failure(DiskFullError.code, "no space left on the host's disk")
    if status == EXIT_INTERRUPTED:
        return Failure("killed_by_signal", "the job was stopped by a signal from outside", retryable=True)
    if status == -signal.SIGKILL and had_oom_kill:
        return Failure(HostMemoryError.code, "the job was killed because the host's memory ran out", retryable=True)
    if status < 0:
        return Failure("killed_by_signal", f"the job was ended by {describe_signal(-status)}", retryable=True)
    message = f"the pipeline ended with exit status {status} and gave no reason; the job's log may"
    return Failure("internal_error", message)
