"""A waiting job of a higher priority pauses a running one where the installation says so."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.jobs.commands import Outcome
from app.jobs.views import StopRequest
from app.states import JobStatus
from tests.support.installation import OWNER, CoreInstallation, open_installation


@pytest.fixture
def preempting(database_url: str, tmp_path: Path) -> Iterator[CoreInstallation]:
    with open_installation(tmp_path / "preempting", database_url=database_url, preemption=True) as core:
        yield core


def test_a_running_job_makes_room_and_goes_on_afterwards(preempting: CoreInstallation) -> None:
    preempting.add_worker(num_gpus=1)
    low = preempting.claim_new(priority=0)
    high = preempting.submit(priority=5)
    assert preempting.jobs.dispatch_ready() == []
    assert preempting.jobs.renew(low.job_id, 1).stop_request is StopRequest.PREEMPT
    # Asked once, told once.
    preempting.jobs.dispatch_ready()
    events = preempting.jobs.list_events(OWNER, low.job_id, after_seq=0, limit=99, types=["decision"]).data
    assert [high.id in event.message for event in events] == [True]

    assert preempting.jobs.finish(low.job_id, 1, Outcome("requeued")) == JobStatus.QUEUED
    assert preempting.jobs.get(OWNER, low.job_id).failures == 0
    assert [assignment.job_id for assignment in preempting.jobs.dispatch_ready()] == [high.id]
    assert preempting.jobs.claim(high.id, "wrk-1") is not None
    preempting.jobs.finish(high.id, 1, Outcome("succeeded"))
    assert [assignment.job_id for assignment in preempting.jobs.dispatch_ready()] == [low.job_id]


def test_an_equal_priority_takes_nothing_away(preempting: CoreInstallation) -> None:
    preempting.add_worker()
    running = preempting.claim_new(priority=3)
    preempting.submit(priority=3)
    preempting.jobs.dispatch_ready()
    assert preempting.jobs.renew(running.job_id, 1).stop_request is None


def test_nothing_is_preempted_unless_the_installation_says_so(core: CoreInstallation) -> None:
    core.add_worker()
    running = core.claim_new(priority=-100)
    core.submit(priority=100)
    core.jobs.dispatch_ready()
    assert core.jobs.renew(running.job_id, 1).stop_request is None
