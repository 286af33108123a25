"""Pausing, resuming, cancelling without a checkpoint, waiting after failures, and a bound on the running time."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.jobs.commands import NewEvent, Outcome
from app.jobs.errors import InvalidTransition
from app.jobs.views import JobError, StopRequest
from app.states import JobStatus
from tests.support.fake_clock import FakeClock, fake_database_clock
from tests.support.installation import OWNER, CoreInstallation, open_installation

NO_ANSWER = Outcome("failed", error=JobError("network", "no answer"), retryable=True)


@pytest.fixture
def clock(database_url: str) -> Iterator[FakeClock]:
    with fake_database_clock(database_url) as clock:
        yield clock


@pytest.fixture
def timed(database_url: str, clock: FakeClock, tmp_path: Path) -> Iterator[CoreInstallation]:
    with open_installation(tmp_path / "timed", database_url=database_url, retry_backoff_seconds=(10, 60, 300)) as core:
        yield core


def list_event_types(core: CoreInstallation, job_id: str) -> list[str]:
    return [event.type for event in core.jobs.list_events(OWNER, job_id, after_seq=0, limit=100).data]


def test_a_waiting_job_is_paused_at_once_and_runs_after_it_was_resumed(core: CoreInstallation) -> None:
    core.add_worker()
    job = core.submit()
    assert core.jobs.pause(OWNER, job.id).status == JobStatus.PAUSED
    assert core.jobs.pause(OWNER, job.id).status == JobStatus.PAUSED
    assert core.jobs.dispatch_ready() == []
    assert core.jobs.claim(job.id, "wrk-1") is None

    assert core.jobs.resume(OWNER, job.id).status == JobStatus.QUEUED
    assert core.jobs.resume(OWNER, job.id).status == JobStatus.QUEUED
    core.jobs.dispatch_ready()
    assert core.jobs.claim(job.id, "wrk-1") is not None
    assert list_event_types(core, job.id) == ["job.queued", "job.paused", "job.resumed", "job.running"]


def test_a_running_job_is_paused_when_it_has_saved_and_counts_no_failure(core: CoreInstallation) -> None:
    core.add_worker(num_gpus=1)
    claim = core.claim_new()
    core.jobs.record_events(claim.job_id, 1, [NewEvent("step.started", step="train")])
    asked = core.jobs.pause(OWNER, claim.job_id)
    assert (asked.status, asked.stop_requested) == (JobStatus.RUNNING, "pause")
    assert core.jobs.renew(claim.job_id, 1).stop_request is StopRequest.PAUSE

    assert core.jobs.finish(claim.job_id, 1, Outcome("requeued")) == JobStatus.PAUSED
    paused = core.jobs.get(OWNER, claim.job_id)
    assert (paused.failures, paused.step, paused.stop_requested) == (0, None, None)
    assert {step.status for step in paused.steps} == {"pending"}
    # Its GPU is free for another job.
    assert core.claim_new().gpus == (0,)


def test_a_resumed_job_keeps_its_place(core: CoreInstallation) -> None:
    first, second = core.submit(), core.submit()
    core.jobs.pause(OWNER, first.id)
    core.jobs.resume(OWNER, first.id)
    core.add_worker()
    assert [assignment.job_id for assignment in core.jobs.dispatch_ready()] == [first.id]
    assert second.id > first.id


def test_a_pause_that_was_taken_back_too_late_puts_the_job_into_the_queue(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new()
    core.jobs.pause(OWNER, claim.job_id)
    assert core.jobs.resume(OWNER, claim.job_id).stop_requested is None
    assert core.jobs.renew(claim.job_id, 1).stop_request is None
    assert core.jobs.finish(claim.job_id, 1, Outcome("requeued")) == JobStatus.QUEUED


def test_a_job_that_was_done_before_it_heard_of_the_pause_has_succeeded(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new()
    core.jobs.pause(OWNER, claim.job_id)
    assert core.jobs.finish(claim.job_id, 1, Outcome("succeeded")) == JobStatus.SUCCEEDED


def test_a_cancel_outweighs_a_pause(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new()
    core.jobs.pause(OWNER, claim.job_id)
    core.jobs.cancel(OWNER, claim.job_id)
    assert core.jobs.renew(claim.job_id, 1).stop_request is StopRequest.CANCEL
    with pytest.raises(InvalidTransition, match="is being cancelled"):
        core.jobs.resume(OWNER, claim.job_id)
    assert core.jobs.finish(claim.job_id, 1, Outcome("requeued")) == JobStatus.CANCELLED


def test_a_paused_job_whose_worker_was_lost_is_paused_and_counts_a_failure(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new()
    core.jobs.pause(OWNER, claim.job_id)
    core.expire_lease(claim.job_id)
    core.jobs.reclaim_expired()
    job = core.jobs.get(OWNER, claim.job_id)
    assert (job.status, job.failures) == (JobStatus.PAUSED, 1)


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
def test_what_is_over_is_neither_paused_nor_resumed(core: CoreInstallation, end: str) -> None:
    core.add_worker()
    claim = core.claim_new()
    core.jobs.finish(claim.job_id, 1, Outcome(end))  # type: ignore[arg-type]
    for steer in (core.jobs.pause, core.jobs.resume):
        with pytest.raises(InvalidTransition, match=end):
            steer(OWNER, claim.job_id)


def test_a_paused_job_is_cancelled_at_once(core: CoreInstallation) -> None:
    job = core.submit()
    core.jobs.pause(OWNER, job.id)
    assert core.jobs.cancel(OWNER, job.id).status == JobStatus.CANCELLED


def test_a_cancel_without_a_checkpoint_may_follow_one_with(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new()
    core.jobs.cancel(OWNER, claim.job_id)
    core.jobs.cancel(OWNER, claim.job_id, save_checkpoint=False)
    core.jobs.cancel(OWNER, claim.job_id)
    assert core.jobs.renew(claim.job_id, 1).stop_request is StopRequest.DISCARD
    core.jobs.finish(claim.job_id, 1, Outcome("cancelled"))
    # Nothing of it clings to the next attempt.
    core.jobs.retry(OWNER, claim.job_id)
    core.jobs.dispatch_ready()
    assert core.jobs.claim(claim.job_id, "wrk-1") is not None
    assert core.jobs.renew(claim.job_id, 2).stop_request is None


def test_a_job_waits_longer_after_each_failure(timed: CoreInstallation, clock: FakeClock) -> None:
    timed.add_worker()
    job = timed.submit(max_attempts=5)
    for number, seconds in enumerate([10, 60, 300, 300], 1):
        timed.jobs.dispatch_ready()
        assert timed.jobs.claim(job.id, "wrk-1") is not None
        timed.jobs.finish(job.id, number, NO_ANSWER)
        assert timed.jobs.get(OWNER, job.id).not_before == clock.now + seconds
        clock.advance(seconds - 1)
        timed.workers.heartbeat("wrk-1")
        assert timed.jobs.dispatch_ready() == []
        assert timed.jobs.claim(job.id, "wrk-1") is None
        clock.advance(1)
    timed.jobs.dispatch_ready()
    assert timed.jobs.claim(job.id, "wrk-1") is not None
    assert timed.jobs.finish(job.id, 5, NO_ANSWER) == JobStatus.FAILED


def test_a_job_that_waits_after_a_failure_holds_no_other_up(timed: CoreInstallation) -> None:
    timed.add_worker()
    claim = timed.claim_new()
    timed.jobs.finish(claim.job_id, 1, NO_ANSWER)
    other = timed.submit()
    assert timed.jobs.claim(other.id, "wrk-1") is not None


def test_neither_a_retry_nor_a_graceful_stop_waits(timed: CoreInstallation) -> None:
    timed.add_worker()
    job = timed.submit(max_attempts=1)
    for attempt, outcome in enumerate([Outcome("requeued"), NO_ANSWER], 1):
        timed.jobs.dispatch_ready()
        assert timed.jobs.claim(job.id, "wrk-1") is not None
        timed.jobs.finish(job.id, attempt, outcome)
        assert timed.jobs.get(OWNER, job.id).not_before is None
    timed.jobs.retry(OWNER, job.id)
    timed.jobs.dispatch_ready()
    assert timed.jobs.claim(job.id, "wrk-1") is not None


def test_the_bound_on_the_running_time_holds_over_all_attempts(timed: CoreInstallation, clock: FakeClock) -> None:
    timed.add_worker()
    job = timed.submit(max_runtime_seconds=100.0)
    left = []
    for attempt, seconds in enumerate([30, 50, 40], 1):
        timed.workers.heartbeat("wrk-1")
        timed.jobs.dispatch_ready()
        claim = timed.jobs.claim(job.id, "wrk-1")
        assert claim is not None
        left.append(claim.max_runtime_seconds)
        clock.advance(seconds)
        timed.jobs.finish(job.id, attempt, Outcome("requeued"))
        # Waiting counts for nothing.
        clock.advance(1000)
    assert left == [100, 70, 20]
    timed.workers.heartbeat("wrk-1")
    timed.jobs.dispatch_ready()
    claim = timed.jobs.claim(job.id, "wrk-1")
    assert claim is not None
    assert claim.max_runtime_seconds == 0


def test_an_attempt_tells_how_long_its_job_had_waited(timed: CoreInstallation, clock: FakeClock) -> None:
    timed.add_worker()
    job = timed.submit()
    clock.advance(7)
    timed.jobs.dispatch_ready()
    timed.jobs.claim(job.id, "wrk-1")
    timed.jobs.finish(job.id, 1, NO_ANSWER)
    clock.advance(10 + 3)
    timed.workers.heartbeat("wrk-1")
    timed.jobs.dispatch_ready()
    timed.jobs.claim(job.id, "wrk-1")
    with timed.sessions.reading() as connection:
        rows = connection.exec_driver_sql("SELECT waited_seconds FROM attempts ORDER BY attempt").scalars().all()
    assert rows == [7, 3]
