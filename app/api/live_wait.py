"""The long poll: waits for a job's end without holding a thread or a database connection."""

import time

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from app.api.live import LiveHub, Subscription
from app.api.services import Services
from app.api.streams import says_job_is_over, wait_for_entries
from app.bus import event_stream
from app.jobs.views import JobView
from app.states import FINAL_STATUSES

DISCONNECT_CHECK_SECONDS = 1.0
MAX_WAIT_SECONDS = 60.0


async def wait_until_final(
    services: Services, request: Request, owner: str, job: JobView, *, max_seconds: float
) -> JobView:
    """Returns the job when it is over, after `max_seconds`, or when the server stops or the client has left."""
    if job.status in FINAL_STATUSES:
        return job
    deadline = time.monotonic() + max_seconds
    async with services.live.subscribe({event_stream(job.id)}) as subscription:
        while True:
            job = await run_in_threadpool(services.jobs.get, owner, job.id)
            if job.status in FINAL_STATUSES or time.monotonic() >= deadline:
                return job
            look_again_at = min(deadline, time.monotonic() + services.live.poll_seconds)
            if not await _wait_for_hint(services.live, request, subscription, look_again_at=look_again_at):
                return job


async def _wait_for_hint(hub: LiveHub, request: Request, subscription: Subscription, *, look_again_at: float) -> bool:
    """Returns True when the job should be looked at again, False when nobody waits for it any more."""
    while (remaining := look_again_at - time.monotonic()) > 0:
        if hub.is_stopping or await request.is_disconnected():
            return False
        await wait_for_entries(subscription, min(DISCONNECT_CHECK_SECONDS, remaining))
        was_lagging = subscription.is_lagging
        if any(says_job_is_over(entry) for entry in subscription.take()) or was_lagging:
            return True
    return True
