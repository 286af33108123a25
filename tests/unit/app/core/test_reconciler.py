"""The loop: it dispatches, reclaims, survives an outage, and stops when told."""

import threading

import pytest
from sqlalchemy import text

from app.db.session import transaction
from app.jobs.reconciler import Reconciler
from app.states import JobStatus
from tests.support.installation import OWNER, CoreInstallation


def test_tick_takes_back_and_sends_again(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new()
    core.expire_lease(claim.job_id)
    Reconciler(core.jobs, 1.0).tick()
    assert core.jobs.claim(claim.job_id, "wrk-1") is not None


def test_nothing_is_taken_back_for_one_lease_after_an_outage(
    core: CoreInstallation, caplog: pytest.LogCaptureFixture
) -> None:
    core.add_worker()
    claim = core.claim_new()
    core.expire_lease(claim.job_id)
    with transaction(core.sessions) as connection:
        connection.execute(text("ALTER TABLE workers RENAME TO away"))
    stop = threading.Event()
    reconciler = Reconciler(core.jobs, 0.01)
    # An outage that begins between two leases: the first thing to fail is the reclaim.
    with transaction(core.sessions) as connection:
        connection.execute(text("ALTER TABLE jobs RENAME TO jobs_away"))
    thread = threading.Thread(target=reconciler.run, args=(stop,))
    thread.start()
    while "did not answer" not in caplog.text:
        stop.wait(0.01)
    with transaction(core.sessions) as connection:
        connection.execute(text("ALTER TABLE jobs_away RENAME TO jobs"))
        connection.execute(text("ALTER TABLE away RENAME TO workers"))
    reconciler_ticked = core.submit()
    while core.jobs.dispatch_ready():
        stop.wait(0.01)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert core.jobs.get(OWNER, claim.job_id).status == JobStatus.RUNNING
    assert core.jobs.get(OWNER, reconciler_ticked.id).status == JobStatus.QUEUED
