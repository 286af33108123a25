"""Random sequences of everything that can happen to jobs, against the promises of the contract."""

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

from app.jobs.commands import NewEvent, Outcome
from app.jobs.errors import InvalidTransition, LeaseLost
from app.jobs.views import JobError, JobView
from app.states import FINAL_STATUSES, TRANSITIONS, JobStatus
from tests.support.installation import OWNER, CoreInstallation, open_installation

OUTCOMES = (
    Outcome("succeeded"),
    Outcome("cancelled"),
    Outcome("requeued"),
    Outcome("failed", error=JobError("user_code", "boom")),
    Outcome("failed", error=JobError("network", "no answer"), retryable=True),
)
MAX_ATTEMPTS = 2


class JobMachine(RuleBasedStateMachine):
    """`self.core` is set by the test; the model is what each job looked like after the last rule."""

    core: CoreInstallation
    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, JobView] = {}
        self.core.add_worker("wrk-1", num_gpus=2)

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
        claim = self.core.jobs.claim(job_id, "wrk-1")
        if claim is not None:
            assert self.seen[job_id].status == JobStatus.QUEUED
            assert claim.attempt == self.seen[job_id].attempt + 1

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
            self.core.jobs.renew(job_id, before.attempt - back)
        except LeaseLost:
            assert not holds
        else:
            assert holds

    @rule(job_id=jobs)
    def lose_lease(self, job_id: str) -> None:
        self.core.expire_lease(job_id)
        self.core.jobs.reclaim_expired()

    @rule()
    def worker_dies(self) -> None:
        self.core.jobs.expire_leases_of("wrk-1")
        self.core.add_worker("wrk-1", num_gpus=2)

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        try:
            self.core.jobs.cancel(OWNER, job_id)
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
            self.seen[job_id] = job

            self.check_events(job_id, job)
        assert sum(job.status == JobStatus.RUNNING for job in self.seen.values()) <= 2

    def check_events(self, job_id: str, job: JobView) -> None:
        events = self.core.jobs.list_events(OWNER, job_id, after_seq=0, limit=10_000).data
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        types = [event.type for event in events]
        assert types.count("job.running") == job.attempt
        assert types.count("job.succeeded") == (job.status == JobStatus.SUCCEEDED)
        assert [event.attempt for event in events] == sorted(event.attempt for event in events)


def test_jobs_keep_their_promises_whatever_happens(database_url: str, tmp_path: Path) -> None:
    with open_installation(tmp_path / "machine", database_url=database_url) as installation:

        class Machine(JobMachine):
            core = installation

        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            Machine,
            settings=settings(
                max_examples=12,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
            ),
        )
