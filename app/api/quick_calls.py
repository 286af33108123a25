"""The two calls that are made most, without a thread for each where the database is a local file.

A hop to a thread and back costs 1 ms of processor time on two cores, as much as all the rest of a small request.
"""

from functools import partial

from starlette.concurrency import run_in_threadpool

from app.api.services import Services
from app.jobs.commands import JobSubmission
from app.jobs.views import JobView, Submitted


async def submit_job(
    services: Services, owner: str, submission: JobSubmission, *, idempotency_key: str | None
) -> Submitted:
    """As `JobService.submit`, of which it is the same three parts."""
    jobs = services.jobs
    if services.group_commit is None:
        return await run_in_threadpool(jobs.submit, owner, submission, idempotency_key=idempotency_key)
    prepared = jobs.prepare(owner, submission, idempotency_key=idempotency_key)
    stored = await services.group_commit.run(partial(jobs.store, prepared=prepared))
    if stored.assignments:
        # The queue may take half a second to fail.
        await run_in_threadpool(jobs.wake, stored.assignments)
    return stored.submitted


async def read_job(services: Services, owner: str, job_id: str) -> JobView:
    """As `JobService.get`; in WAL mode a read of one row waits for no writer."""
    if services.group_commit is None:
        return await run_in_threadpool(services.jobs.get, owner, job_id)
    return services.jobs.get(owner, job_id)
