"""What the exit status of a step's process means."""

import signal

from trainer_core.attempt.outcome import (
    EXIT_DISK_FULL,
    EXIT_INTERRUPTED,
    EXIT_SUCCEEDED,
    EXIT_TERMINATED,
    AttemptResult,
    Failure,
)
from trainer_core.enums import Step
from trainer_core.errors import DiskFullError, HostMemoryError


def classify_step_exit(
    status: int, *, step: Step, failure: Failure | None, was_stopped: bool, had_oom_kill: bool
) -> AttemptResult:
    """Returns how the step ended.

    `status` is negative for a signal; `failure` is what the step itself wrote and wins over every guess; `was_stopped`
    says that a stop was asked for; `had_oom_kill` that the kernel killed for memory meanwhile.
    """
    if status == EXIT_SUCCEEDED:
        return AttemptResult("succeeded")
    if status == EXIT_INTERRUPTED or (was_stopped and (status < 0 or status == EXIT_TERMINATED)):
        return AttemptResult("interrupted")
    if failure is not None:
        return AttemptResult("failed", failure)
    return AttemptResult("failed", _guess_failure(status, step=step, had_oom_kill=had_oom_kill))


def _guess_failure(status: int, *, step: Step, had_oom_kill: bool) -> Failure:
    number = -status if status < 0 else status - 128
    if status == EXIT_DISK_FULL:
        return Failure(DiskFullError.code, f"{step}: no space left on the host's disk", step=step)
    if number == signal.SIGKILL and had_oom_kill:
        message = f"{step} was killed because the host's memory ran out"
        return Failure(HostMemoryError.code, message, step=step, retryable=True)
    if status < 0 or status > 128:
        return Failure("killed_by_signal", f"{step} was ended by {describe_signal(number)}", step=step, retryable=True)
    message = f"{step} ended with exit status {status} and gave no reason; its log may"
    return Failure("internal_error", message, step=step)


def describe_signal(number: int) -> str:
    """Returns a signal's name, or its number when it has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
