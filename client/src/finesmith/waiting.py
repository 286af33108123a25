"""Waits until a job has finished."""

import time
from collections.abc import Callable

from finesmith.errors import APIError, JobCancelled, JobFailed, WaitTimeout
from finesmith.models.job import Job
from finesmith.progress.view import ProgressView
from finesmith.retry import Outage, RetryPolicy

MIN_PAUSE_SECONDS = 0.25
"""Least time between two looks at a job, also when the service answers at once."""


def wait_for_job(
    job: Job, *, look: Callable[[str, float], Job], timeout: float | None, view: ProgressView, retry: RetryPolicy
) -> Job:
    """Returns the job once it has succeeded; raises JobFailed, JobCancelled or WaitTimeout.

    `look(job_id, seconds)` fetches the job and may take up to `seconds` to wait for news; it does not retry. The last
    look may make the wait longer than `timeout` seconds.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    outage = Outage(retry)
    while True:
        view.show(job)
        if job.is_finished:
            return _check_outcome(job)
        left_seconds = float("inf") if deadline is None else deadline - time.monotonic()
        if left_seconds <= 0:
            raise WaitTimeout(job)
        looked_at = time.monotonic()
        try:
            job = look(job.id, min(view.interval_seconds, left_seconds))
            outage.end()
            pause_seconds = 0.0 if job.is_finished else MIN_PAUSE_SECONDS - (time.monotonic() - looked_at)
        except APIError as error:
            pause_seconds = outage.delay_after(error)
        time.sleep(max(min(pause_seconds, left_seconds), 0.0))


def _check_outcome(job: Job) -> Job:
    if job.status == "failed":
        raise JobFailed(job)
    if job.status == "cancelled":
        raise JobCancelled(job)
    return job
