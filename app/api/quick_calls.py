"""The two calls that are made most, without a thread for each.

A hop to a thread and back costs 1 ms of processor time on two cores, as much as all the rest of a small request.
"""

from collections.abc import Callable
from functools import partial

from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from app.api.services import Services
from app.jobs.commands import JobSubmission
from app.jobs.owner_side import Prepared, Stored
from app.jobs.service import JobService
from app.jobs.views import JobView, Submitted


async def submit_job(
    services: Services, owner: str, submission: JobSubmission, *, idempotency_key: str | None
) -> Submitted:
    """As `JobService.submit`, of which it is the same three parts.

    What is checked against a local file is checked at once; what may wait for a database elsewhere, in the thread that
    writes.
    """
    jobs = services.jobs
    prepare = partial(jobs.prepare, owner, submission, idempotency_key=idempotency_key)
    if services.has_local_database:
        work = partial(jobs.store, prepared=prepare())
    else:
        work = partial(_prepare_and_store, jobs, prepare)
    stored = await services.group_commit.run(work)
    if stored.assignments:
        # The queue may take half a second to fail.
        await run_in_threadpool(jobs.wake, stored.assignments)
    return stored.submitted


def _prepare_and_store(jobs: JobService, prepare: Callable[[], Prepared], connection: Connection) -> Stored:
    return jobs.store(connection, prepare())


async def read_job(services: Services, owner: str, job_id: str) -> JobView:
    """As `JobService.get`; in WAL mode a read of one row waits for no writer."""
    if not services.has_local_database:
        return await run_in_threadpool(services.jobs.get, owner, job_id)
    return services.jobs.get(owner, job_id)
