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


def test_a_database_that_is_away_is_waited_for(core: CoreInstallation, caplog: pytest.LogCaptureFixture) -> None:
    core.add_worker()
    claim = core.claim_new()
    reconciler = Reconciler(core.jobs, 0.01)
    rename_table(core, "jobs", "away")
    stop = threading.Event()
    thread = threading.Thread(target=reconciler.run, args=(stop,))
    thread.start()
    while "did not answer" not in caplog.text:
        stop.wait(0.01)
    rename_table(core, "away", "jobs")
    core.expire_lease(claim.job_id)
    while core.jobs.get(OWNER, claim.job_id).status == JobStatus.RUNNING:
        stop.wait(0.01)
    stop.set()
    thread.join(10)


def rename_table(core: CoreInstallation, old: str, new: str) -> None:
    """A database whose jobs cannot be read is as good as one that is away."""
    with transaction(core.sessions) as connection:
        connection.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))
