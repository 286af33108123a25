"""The life of an attempt: claim, lease, events, end; and that nothing of an old one is taken."""

import math

import pytest
from sqlalchemy import select, update

from app.db.models import attempts, job_secrets, jobs
from app.db.session import snapshot, transaction
from app.jobs.commands import NewArtifact, NewEvent, Outcome
from app.jobs.errors import InvalidTransition, LeaseLost
from app.jobs.rows import dump_steps
from app.jobs.views import JobError, LogCursor, StopRequest
from app.states import JobStatus, StepStatus
from tests.support.installation import OWNER, CoreInstallation

NETWORK = Outcome("failed", error=JobError("network", "no answer", step="prepare"), retryable=True)
USER_CODE = Outcome("failed", error=JobError("user_code", "boom", step="prepare"), exit_code=1)


def list_types(core: CoreInstallation, job_id: str) -> list[str]:
    page = core.jobs.list_events(OWNER, job_id, after_seq=0, limit=1000)
    assert [event.seq for event in page.data] == list(range(1, len(page.data) + 1))
    return [event.type for event in page.data]


def test_claim_hands_over_everything_that_the_worker_needs(core: CoreInstallation) -> None:
    core.add_worker(num_gpus=2)
    file = core.upload()
    claim = core.claim_new(
        training_file=file.id, config={"huggingface_hub_token": "hf_secret"}, priority=3, max_runtime_seconds=60
    )
    assert (claim.attempt, claim.gpus, claim.steps) == (1, (0,), ("prepare", "train"))
    assert claim.secrets == {"huggingface_hub_token": "hf_secret"}
    assert "hf_secret" not in repr(claim)
    assert claim.inputs.training_file is not None
    assert claim.inputs.training_file.sha256 == file.sha256
    assert (claim.priority, claim.max_runtime_seconds, claim.owner) == (3, 60, OWNER)
    job = core.jobs.get(OWNER, claim.job_id)
    assert (job.status, job.attempt, job.resources.gpus) == (JobStatus.RUNNING, 1, 1)
    assert job.started_at is not None


def test_second_claim_of_the_same_wake_up_gets_nothing(core: CoreInstallation) -> None:
    core.add_worker(slots=4)
    claim = core.claim_new()
    assert core.jobs.claim(claim.job_id, "wrk-1") is None
    assert core.jobs.get(OWNER, claim.job_id).attempt == 1


@pytest.mark.parametrize("worker_id", ["wrk-2", "wrk-unknown"])
def test_worker_that_was_not_meant_or_is_unknown_gets_nothing(core: CoreInstallation, worker_id: str) -> None:
    core.add_worker("wrk-1")
    job = core.submit()
    core.add_worker("wrk-2")
    assert core.jobs.claim(job.id, worker_id) is None
    assert core.jobs.claim(job.id, "wrk-1") is not None


def test_claim_without_room_leaves_the_job_to_the_next_round(core: CoreInstallation) -> None:
    core.add_worker(slots=1)
    core.claim_new()
    waiting = core.submit()
    assert core.jobs.claim(waiting.id, "wrk-1") is None
    assert core.jobs.dispatch_ready() == []
    core.add_worker("wrk-2")
    assert [assignment.worker_id for assignment in core.jobs.dispatch_ready()] == ["wrk-2"]


def test_events_move_steps_and_progress(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new()
    core.jobs.record_events(
        claim.job_id,
        1,
        [
            NewEvent("step.started", step="prepare", created_at=10.0),
            NewEvent("step.finished", step="prepare", created_at=12.5, data={"seconds": 2.5}),
            NewEvent("step.started", step="train", created_at=13.0),
            NewEvent("progress", step="train", data={"global_step": 3, "total_steps": 9, "eta_seconds": 4.5}),
            NewEvent("metrics", step="train", data={"loss": 1.5, "epoch": 0.25, "learning_rate": 1e-4}),
        ],
    )
    job = core.jobs.get(OWNER, claim.job_id)
    prepare, train = job.steps
    assert (prepare.status, prepare.started_at, prepare.finished_at) == (StepStatus.SUCCEEDED, 10.0, 12.5)
    assert (train.status, job.step) == (StepStatus.RUNNING, "train")
    assert (job.progress.global_step, job.progress.total_steps, job.progress.loss) == (3, 9, 1.5)
    metrics = core.jobs.list_events(OWNER, claim.job_id, after_seq=0, limit=10, types=["metrics"]).data
    assert [event.data["learning_rate"] for event in metrics] == [1e-4]


def test_a_step_keeps_what_it_found_out_over_a_requeue_and_what_was_pushed_of_it(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new(steps=["prepare", "train"])
    facts = {"revisions": {"owner/model": "a" * 40}, "num_rows": 3, "loss": math.nan, "text": "a\0"}
    push = {"name": "adapter", "repository": "me/adapter", "commit": "c" * 40, "url": "http://hub", "private": True}
    core.jobs.record_events(
        claim.job_id,
        1,
        [
            NewEvent("step.finished", step="prepare", data={"facts": facts}),
            NewEvent("step.started", step="train"),
            NewEvent("artifact.created", step="train", data={**push, "global_step": 5, "commit": "early"}),
            NewEvent("step.finished", step="train", data={"facts": {"train_loss": 1.5}}),
            NewEvent("artifact.created", step="train", data=push),
            NewEvent("artifact.created", step="nowhere", data=push),
            NewEvent("step.finished", step="nowhere", data={"facts": "none"}),
        ],
    )
    core.jobs.finish(claim.job_id, 1, Outcome("requeued"))
    prepare, train = core.jobs.get(OWNER, claim.job_id).steps
    kept = {"revisions": {"owner/model": "a" * 40}, "num_rows": 3, "loss": None, "text": "a\ufffd"}
    assert prepare.facts == kept
    pushed = {"adapter": {"repository": "me/adapter", "commit": "c" * 40, "url": "http://hub"}}
    assert train.facts == {"train_loss": 1.5, "pushed": pushed}


def test_facts_that_would_burden_every_look_at_the_job_stay_in_their_event(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new(steps=["prepare", "train"])
    [stored] = core.jobs.record_events(
        claim.job_id, 1, [NewEvent("step.finished", step="prepare", data={"facts": {"text": "x" * 100_000}})]
    )
    assert core.jobs.get(OWNER, claim.job_id).steps[0].facts is None
    assert len(stored.data["facts"]["text"]) == 100_000


def test_a_job_of_an_earlier_version_has_no_facts(core: CoreInstallation) -> None:
    job = core.submit()
    old_steps = [{name: value for name, value in step.items() if name != "facts"} for step in dump_steps(job.steps)]
    with transaction(core.sessions) as connection:
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(steps=old_steps))
    assert [step.facts for step in core.jobs.get(OWNER, job.id).steps] == [None] * len(job.steps)


def test_events_that_json_or_a_database_cannot_hold_are_kept_as_near_as_can_be(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new()
    [stored] = core.jobs.record_events(
        claim.job_id, 1, [NewEvent("metrics", message="a\0b\ud800", data={"loss": math.nan, "global_step": 2})]
    )
    assert (stored.message, stored.data) == ("a�b�", {"loss": None, "global_step": 2})
    assert core.jobs.get(OWNER, claim.job_id).progress.loss is None


def test_events_come_in_pages_after_a_number(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new()
    core.jobs.record_events(claim.job_id, 1, [NewEvent("decision", message=str(i)) for i in range(5)])
    page = core.jobs.list_events(OWNER, claim.job_id, after_seq=3, limit=3)
    assert ([event.seq for event in page.data], page.has_more) == ([4, 5, 6], True)


def test_success_completes_the_steps_and_forgets_the_secrets(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new(config={"huggingface_hub_token": "hf_secret"})
    assert core.jobs.finish(claim.job_id, 1, Outcome("succeeded", exit_code=0)) == JobStatus.SUCCEEDED
    job = core.jobs.get(OWNER, claim.job_id)
    assert {step.status for step in job.steps} == {StepStatus.SUCCEEDED}
    assert job.finished_at is not None
    with snapshot(core.sessions) as connection:
        assert connection.execute(select(job_secrets)).all() == []
        [attempt] = connection.execute(select(attempts)).all()
    assert (attempt.outcome, attempt.exit_code) == ("succeeded", 0)
    assert list_types(core, claim.job_id) == ["job.queued", "job.running", "job.succeeded"]


def test_secrets_lie_encrypted(core: CoreInstallation) -> None:
    core.submit(config={"huggingface_hub_token": "hf_secret"})
    with snapshot(core.sessions) as connection:
        [row] = connection.execute(select(job_secrets)).all()
    assert b"hf_secret" not in bytes(row.ciphertext)


def test_failure_that_is_final_names_step_and_code(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new()
    core.jobs.record_events(claim.job_id, 1, [NewEvent("step.started", step="prepare")])
    assert core.jobs.finish(claim.job_id, 1, USER_CODE) == JobStatus.FAILED
    job = core.jobs.get(OWNER, claim.job_id)
    assert job.error == USER_CODE.error
    assert (job.failures, job.steps[0].status, job.steps[0].error) == (0, StepStatus.FAILED, USER_CODE.error)
    assert job.steps[1].status == StepStatus.PENDING


def test_retryable_failures_requeue_until_max_attempts(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new(max_attempts=2)
    assert core.jobs.finish(claim.job_id, 1, NETWORK) == JobStatus.QUEUED
    core.jobs.dispatch_ready()
    assert core.jobs.claim(claim.job_id, "wrk-1") is not None
    assert core.jobs.finish(claim.job_id, 2, NETWORK) == JobStatus.FAILED
    job = core.jobs.get(OWNER, claim.job_id)
    assert (job.attempt, job.failures) == (2, 2)
    assert list_types(core, claim.job_id)[-3:] == ["job.requeued", "job.running", "job.failed"]


def test_graceful_requeue_counts_as_no_failure(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new(max_attempts=1)
    for attempt in (1, 2, 3):
        assert core.jobs.finish(claim.job_id, attempt, Outcome("requeued")) == JobStatus.QUEUED
        core.jobs.dispatch_ready()
        assert core.jobs.claim(claim.job_id, "wrk-1") is not None
    assert core.jobs.get(OWNER, claim.job_id).failures == 0


def test_old_attempt_can_write_nothing(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new()
    core.jobs.finish(claim.job_id, 1, NETWORK)
    core.jobs.dispatch_ready()
    core.jobs.claim(claim.job_id, "wrk-1")
    before = list_types(core, claim.job_id)
    writes = [
        lambda: core.jobs.renew(claim.job_id, 1),
        lambda: core.jobs.record_events(claim.job_id, 1, [NewEvent("progress")]),
        lambda: core.jobs.record_artifacts(claim.job_id, 1, [NewArtifact("a", "a/b", 1, "0", "k")]),
        lambda: core.jobs.record_log_chunk(claim.job_id, 1, first_line=1, num_lines=1, num_bytes=1, storage_key="k"),
        lambda: core.jobs.finish(claim.job_id, 1, Outcome("succeeded")),
    ]
    for write in writes:
        with pytest.raises(LeaseLost):
            write()
    assert list_types(core, claim.job_id) == before
    assert core.jobs.renew(claim.job_id, 2).stop_request is None


def test_expired_lease_is_taken_back_and_counts_as_a_failure(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new()
    assert core.jobs.reclaim_expired() == []
    core.expire_lease(claim.job_id)
    assert core.jobs.reclaim_expired() == [claim.job_id]
    job = core.jobs.get(OWNER, claim.job_id)
    assert (job.status, job.failures, job.attempt) == (JobStatus.QUEUED, 1, 1)
    with pytest.raises(LeaseLost):
        core.jobs.renew(claim.job_id, 1)


def test_renewal_in_time_keeps_the_job(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new()
    core.expire_lease(claim.job_id)
    core.jobs.renew(claim.job_id, 1)
    assert core.jobs.reclaim_expired() == []


def test_last_lost_lease_fails_the_job(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new(max_attempts=1)
    core.expire_lease(claim.job_id)
    core.jobs.reclaim_expired()
    job = core.jobs.get(OWNER, claim.job_id)
    assert job.status == JobStatus.FAILED
    assert job.error is not None
    assert job.error.code == "lease_lost"


def test_dead_workers_jobs_are_taken_back_at_once(core: CoreInstallation) -> None:
    core.add_worker(slots=2)
    running = core.claim_new()
    sent = core.submit()
    assert core.jobs.expire_leases_of("wrk-1") == [running.job_id]
    core.add_worker("wrk-2", slots=2)
    sent_again = {(a.job_id, a.worker_id) for a in core.jobs.dispatch_ready()}
    assert sent_again == {(running.job_id, "wrk-2"), (sent.id, "wrk-2")}


def test_queued_job_is_cancelled_at_once(core: CoreInstallation) -> None:
    job = core.submit()
    cancelled = core.jobs.cancel(OWNER, job.id)
    assert (cancelled.status, cancelled.attempt) == (JobStatus.CANCELLED, 0)
    assert core.jobs.cancel(OWNER, job.id) == cancelled
    core.add_worker()
    assert core.jobs.dispatch_ready() == []
    assert core.jobs.claim(job.id, "wrk-1") is None


def test_running_job_is_asked_and_ends_when_its_worker_says_so(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new()
    assert core.jobs.cancel(OWNER, claim.job_id).status == JobStatus.RUNNING
    assert core.jobs.renew(claim.job_id, 1).stop_request is StopRequest.CANCEL
    assert core.jobs.finish(claim.job_id, 1, Outcome("cancelled", signal=15)) == JobStatus.CANCELLED


@pytest.mark.parametrize("outcome", [NETWORK, Outcome("requeued")], ids=["retryable", "requeued"])
def test_cancelled_job_does_not_go_back_to_the_queue(core: CoreInstallation, outcome: Outcome) -> None:
    core.add_worker()
    claim = core.claim_new()
    core.jobs.cancel(OWNER, claim.job_id)
    assert core.jobs.finish(claim.job_id, 1, outcome) == JobStatus.CANCELLED


def test_lost_job_whose_cancel_was_asked_for_is_cancelled(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new()
    core.jobs.cancel(OWNER, claim.job_id)
    core.expire_lease(claim.job_id)
    core.jobs.reclaim_expired()
    assert core.jobs.get(OWNER, claim.job_id).status == JobStatus.CANCELLED


def test_cancel_that_comes_too_late_does_not_undo_a_success(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new()
    core.jobs.cancel(OWNER, claim.job_id)
    assert core.jobs.finish(claim.job_id, 1, Outcome("succeeded")) == JobStatus.SUCCEEDED
    with pytest.raises(InvalidTransition):
        core.jobs.cancel(OWNER, claim.job_id)


def test_retry_keeps_the_id_the_done_steps_and_the_secrets(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new(config={"huggingface_hub_token": "hf_secret"}, max_attempts=1)
    core.jobs.record_events(
        claim.job_id, 1, [NewEvent("step.started", step="prepare"), NewEvent("step.finished", step="prepare")]
    )
    core.jobs.finish(claim.job_id, 1, NETWORK)
    job = core.jobs.retry(OWNER, claim.job_id)
    assert (job.status, job.failures, job.error, job.finished_at) == (JobStatus.QUEUED, 0, None, None)
    assert [step.status for step in job.steps] == [StepStatus.SUCCEEDED, StepStatus.PENDING]
    core.jobs.dispatch_ready()
    again = core.jobs.claim(claim.job_id, "wrk-1")
    assert again is not None
    assert (again.attempt, again.secrets) == (2, {"huggingface_hub_token": "hf_secret"})


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.SUCCEEDED])
def test_only_what_failed_or_was_cancelled_is_retried(core: CoreInstallation, status: JobStatus) -> None:
    job_id = core.submit().id
    if status != JobStatus.QUEUED:
        core.add_worker()
        core.jobs.dispatch_ready()
        core.jobs.claim(job_id, "wrk-1")
    if status == JobStatus.SUCCEEDED:
        core.jobs.finish(job_id, 1, Outcome("succeeded"))
    with pytest.raises(InvalidTransition):
        core.jobs.retry(OWNER, job_id)


def test_artifacts_of_a_later_attempt_replace_those_of_the_same_path(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new()
    files = [NewArtifact("fused", f"fused/{name}", 5, "a" * 64, f"k/{name}") for name in ("b", "a")]
    [event] = core.jobs.record_artifacts(claim.job_id, 1, files)
    assert (event.type, event.data) == ("artifact.created", {"name": "fused", "num_files": 2, "num_bytes": 10})
    core.jobs.record_artifacts(claim.job_id, 1, [NewArtifact("fused", "fused/a", 6, "b" * 64, "k/a")])
    listed = core.jobs.list_artifacts(OWNER, claim.job_id)
    assert [(artifact.path, artifact.num_bytes) for artifact in listed] == [("fused/a", 6), ("fused/b", 5)]
    assert core.jobs.get_artifact(OWNER, claim.job_id, "fused/a").sha256 == "b" * 64


def test_log_lines_of_all_attempts_are_read_in_order_from_a_cursor(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new()
    for attempt, first_line, text in ((1, 1, "one\ntwo\n"), (1, 3, "three\n"), (2, 1, "again\u2028still\n")):
        if attempt == 2 and first_line == 1:
            core.jobs.finish(claim.job_id, 1, NETWORK)
            core.jobs.dispatch_ready()
            core.jobs.claim(claim.job_id, "wrk-1")
        key = f"jobs/{claim.job_id}/logs/{attempt}/{first_line}.log"
        written = core.storage.write(key, [text.encode()])
        core.jobs.record_log_chunk(
            claim.job_id,
            attempt,
            first_line=first_line,
            num_lines=text.count("\n"),
            num_bytes=written.num_bytes,
            storage_key=key,
        )
    page = core.jobs.list_log_lines(OWNER, claim.job_id, after=None, limit=3)
    assert ([line.text for line in page.data], page.has_more) == (["one", "two", "three"], True)
    rest = core.jobs.list_log_lines(OWNER, claim.job_id, after=LogCursor(1, 2), limit=10)
    assert [(line.attempt, line.line, line.text) for line in rest.data] == [
        (1, 3, "three"),
        (2, 1, "again\u2028still"),
    ]
    assert core.jobs.list_log_lines(OWNER, claim.job_id, after=LogCursor(2, 1), limit=10).data == []
