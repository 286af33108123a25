"""Random sequences of everything that can happen to jobs, by a clock of its own, against the contract's promises."""

from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete

from app.db.models import jobs as jobs_table
from app.db.session import transaction
from app.jobs.commands import NewEvent, Outcome
from app.jobs.errors import InvalidTransition, LeaseLost
from app.jobs.views import JobError, JobView, StopRequest
from app.states import FINAL_STATUSES, TRANSITIONS, JobStatus
from tests.support.fake_clock import FakeClock, fake_database_clock
from tests.support.installation import OWNER, CoreInstallation, open_installation

OUTCOMES = (
    Outcome("succeeded"),
    Outcome("cancelled"),
    Outcome("requeued"),
    Outcome("failed", error=JobError("user_code", "boom")),
    Outcome("failed", error=JobError("network", "no answer"), retryable=True),
)
MAX_ATTEMPTS = 2
LEASE_SECONDS, BACKOFF_SECONDS = 60.0, (10.0, 60.0)
LONGEST_PAUSE_SECONDS = 14.0
"""Between two rounds of the reconciler that count as one after the other: less than a quarter of a lease."""
REQUESTS = {"cancel": {StopRequest.CANCEL, StopRequest.DISCARD}, "pause": {StopRequest.PAUSE}}
REQUEST_STATES = {"cancel": {JobStatus.CANCELLED}, "pause": {JobStatus.PAUSED}}


class JobMachine(RuleBasedStateMachine):
    """`core` and `clock` are set by the test; the model is what each job looked like after the last rule, until when
    each running one's lease lasts, and until when nobody may take any back."""

    core: CoreInstallation
    clock: FakeClock
    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, JobView] = {}
        self.leased_until: dict[str, float] = {}
        self.last_round = self.clock.now
        self.held_until = 0.0
        with transaction(self.core.sessions) as connection:
            # What an earlier example left would be taken back in this one.
            connection.execute(delete(jobs_table))
        self.core.add_worker("wrk-1", num_gpus=2)
        self.core.jobs.reclaim_expired()

    @rule(target=jobs, priority=st.integers(-1, 1))
    def submit(self, priority: int) -> str:
        job = self.core.submit(max_attempts=MAX_ATTEMPTS, priority=priority)
        self.seen[job.id] = job
        return job.id

    @rule()
    def dispatch(self) -> None:
        self.core.jobs.dispatch_ready()

    @rule(job_id=jobs)
    def claim(self, job_id: str) -> None:
        before = self.seen[job_id]
        claim = self.core.jobs.claim(job_id, "wrk-1")
        if claim is not None:
            assert before.status == JobStatus.QUEUED
            assert claim.attempt == before.attempt + 1
            assert before.not_before is None or before.not_before <= self.clock.now
            self.leased_until[job_id] = self.clock.now + LEASE_SECONDS

    @rule(job_id=jobs, back=st.integers(0, 1), outcome=st.sampled_from(OUTCOMES))
    def finish(self, job_id: str, back: int, outcome: Outcome) -> None:
        before = self.seen[job_id]
        holds = before.status == JobStatus.RUNNING and back == 0
        try:
            self.core.jobs.finish(job_id, before.attempt - back, outcome)
        except LeaseLost:
            assert not holds
        else:
            assert holds

    @rule(job_id=jobs, back=st.integers(0, 1))
    def record(self, job_id: str, back: int) -> None:
        before = self.seen[job_id]
        holds = before.status == JobStatus.RUNNING and back == 0
        try:
            self.core.jobs.record_events(
                job_id, before.attempt - back, [NewEvent("step.started", step="train"), NewEvent("progress")]
            )
            lease = self.core.jobs.renew(job_id, before.attempt - back)
        except LeaseLost:
            assert not holds
        else:
            assert holds
            self.leased_until[job_id] = self.clock.now + LEASE_SECONDS
            if before.stop_requested is not None:
                assert lease.stop_request in REQUESTS[before.stop_requested]

    @rule(seconds=st.sampled_from([1.0, 9.0, 14.0, 61.0, 200.0]), is_watched=st.booleans())
    def time_passes(self, seconds: float, is_watched: bool) -> None:
        """Watched, the reconciler's rounds go on meanwhile; else it was away, or the database."""
        pause_seconds = min(seconds, LONGEST_PAUSE_SECONDS) if is_watched else seconds
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.clock.advance(min(pause_seconds, until - self.clock.now))
            if is_watched:
                self.look_for_lost()
        self.core.workers.heartbeat("wrk-1")

    @rule()
    def look_for_lost(self) -> None:
        if self.clock.now - self.last_round > LEASE_SECONDS / 4:
            self.held_until = self.clock.now + LEASE_SECONDS
        self.last_round = self.clock.now
        taken = set(self.core.jobs.reclaim_expired())
        due = {
            job_id
            for job_id, until in self.leased_until.items()
            if until < self.clock.now and self.core.jobs.get(OWNER, job_id).status == JobStatus.RUNNING
        }
        assert due <= taken if not self.held_until > self.clock.now else not taken
        for job_id in taken:
            assert self.leased_until[job_id] < self.clock.now

    @rule()
    def worker_dies(self) -> None:
        self.core.jobs.expire_leases_of("wrk-1")
        self.core.add_worker("wrk-1", num_gpus=2)

    @rule(job_id=jobs)
    def pause(self, job_id: str) -> None:
        try:
            self.core.jobs.pause(OWNER, job_id)
        except InvalidTransition:
            assert self.seen[job_id].status in FINAL_STATUSES or self.seen[job_id].stop_requested == "cancel"

    @rule(job_id=jobs)
    def resume(self, job_id: str) -> None:
        try:
            self.core.jobs.resume(OWNER, job_id)
        except InvalidTransition:
            assert self.seen[job_id].status in FINAL_STATUSES or self.seen[job_id].stop_requested == "cancel"

    @rule(job_id=jobs, save_checkpoint=st.booleans())
    def cancel(self, job_id: str, save_checkpoint: bool) -> None:
        try:
            self.core.jobs.cancel(OWNER, job_id, save_checkpoint=save_checkpoint)
        except InvalidTransition:
            assert self.seen[job_id].status in (JobStatus.SUCCEEDED, JobStatus.FAILED)

    @rule(job_id=jobs)
    def retry(self, job_id: str) -> None:
        try:
            self.core.jobs.retry(OWNER, job_id)
        except InvalidTransition:
            assert self.seen[job_id].status not in (JobStatus.FAILED, JobStatus.CANCELLED)

    @invariant()
    def every_change_is_allowed(self) -> None:
        for job_id, before in list(self.seen.items()):
            job = self.core.jobs.get(OWNER, job_id)
            assert job.attempt >= before.attempt
            assert job.failures <= MAX_ATTEMPTS
            if job.status != before.status:
                assert job.status in TRANSITIONS[before.status], f"{before.status} -> {job.status}"
            assert (job.finished_at is not None) == (job.status in FINAL_STATUSES)
            self.check_requests(before, job)
            self.seen[job_id] = job
            self.check_events(job_id, job)
        assert sum(job.status == JobStatus.RUNNING for job in self.seen.values()) <= 2

    def check_requests(self, before: JobView, job: JobView) -> None:
        """What was asked for comes about, unless the job ended by itself; what waits after a failure counts it."""
        if before.status == JobStatus.RUNNING and job.status != JobStatus.RUNNING and before.stop_requested:
            ended = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}
            assert job.status in REQUEST_STATES[before.stop_requested] | ended
        if job.not_before is not None:
            assert job.failures > 0
            assert job.status in (JobStatus.QUEUED, JobStatus.PAUSED, JobStatus.CANCELLED)

    def check_events(self, job_id: str, job: JobView) -> None:
        events = self.core.jobs.list_events(OWNER, job_id, after_seq=0, limit=10_000).data
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        types = [event.type for event in events]
        assert types.count("job.running") == job.attempt
        assert types.count("job.paused") - types.count("job.resumed") <= 1
        assert types.count("job.succeeded") == (job.status == JobStatus.SUCCEEDED)
        assert [event.attempt for event in events] == sorted(event.attempt for event in events)


def test_jobs_keep_their_promises_whatever_happens(database_url: str, tmp_path: Path) -> None:
    with (
        fake_database_clock(database_url) as fake_clock,
        open_installation(
            tmp_path / "machine",
            database_url=database_url,
            lease_seconds=LEASE_SECONDS,
            retry_backoff_seconds=BACKOFF_SECONDS,
            preemption=True,
        ) as installation,
    ):

        class Machine(JobMachine):
            core = installation
            clock = fake_clock

        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            Machine,
            settings=settings(
                max_examples=12,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
            ),
        )
