"""Submitting, looking, listing, deleting."""

import pytest

from app.jobs.commands import JobSubmission, NewArtifact, Outcome
from app.jobs.errors import (
    FileInUse,
    FileNotFound,
    IdempotencyConflict,
    InvalidSubmission,
    InvalidTransition,
    JobNotFound,
)
from app.states import JobStatus
from tests.support.installation import CONFIG, OWNER, CoreInstallation


def test_submitted_job_is_queued_with_one_event(core: CoreInstallation) -> None:
    job = core.submit(name="first", metadata={"team": "a"}, priority=7)
    found = core.jobs.get(OWNER, job.id)
    assert found == job
    assert (found.status, found.attempt, found.priority, found.name) == (JobStatus.QUEUED, 0, 7, "first")
    assert [step.name for step in found.steps] == ["prepare", "train"]
    events = core.jobs.list_events(OWNER, job.id, after_seq=0, limit=10)
    assert [(event.seq, event.type) for event in events.data] == [(1, "job.queued")]


def test_config_is_answered_resolved_and_can_be_posted_back(core: CoreInstallation) -> None:
    first = core.submit(config={"huggingface_hub_token": "hf_secret"})
    assert first.config["lora_rank"] == 8
    assert first.config["huggingface_hub_token"] is None
    again = core.jobs.submit(OWNER, JobSubmission(config=first.config)).job
    assert again.config == first.config


def test_same_key_and_body_gives_the_same_job(core: CoreInstallation) -> None:
    submission = JobSubmission(config=CONFIG)
    first = core.jobs.submit(OWNER, submission, idempotency_key="k")
    second = core.jobs.submit(OWNER, submission, idempotency_key="k")
    assert (first.replayed, second.replayed) == (False, True)
    assert first.job.id == second.job.id
    assert len(core.jobs.list(OWNER, after=None, limit=10).data) == 1


def test_same_key_with_another_body_is_a_conflict(core: CoreInstallation) -> None:
    core.jobs.submit(OWNER, JobSubmission(config=CONFIG), idempotency_key="k")
    with pytest.raises(IdempotencyConflict):
        core.jobs.submit(OWNER, JobSubmission(config=CONFIG, priority=1), idempotency_key="k")


def test_a_repetition_in_another_trace_is_the_same_submission(core: CoreInstallation):
    traces = [f"00-{number:032x}-{number:016x}-01" for number in (1, 2)]
    first, second = (
        core.jobs.submit(OWNER, JobSubmission(config=CONFIG, traceparent=trace), idempotency_key="k")
        for trace in traces
    )
    assert (second.job.id, second.replayed) == (first.job.id, True)
    core.add_worker()
    core.jobs.dispatch_ready()
    claim = core.jobs.claim(first.job.id, "wrk-1")
    assert claim is not None
    assert claim.traceparent == traces[0]


def test_keys_are_each_owners_own(core: CoreInstallation) -> None:
    first = core.jobs.submit("ann", JobSubmission(config=CONFIG), idempotency_key="k")
    second = core.jobs.submit("bob", JobSubmission(config=CONFIG), idempotency_key="k")
    assert first.job.id != second.job.id


def test_refused_submission_leaves_its_key_free(core: CoreInstallation) -> None:
    with pytest.raises(InvalidSubmission):
        core.jobs.submit(OWNER, JobSubmission(config={**CONFIG, "lora_rank": 0}), idempotency_key="k")
    assert not core.jobs.submit(OWNER, JobSubmission(config=CONFIG), idempotency_key="k").replayed


def test_replay_works_after_the_file_is_gone(core: CoreInstallation) -> None:
    file = core.upload()
    submission = JobSubmission(config=CONFIG, training_file=file.id)
    job = core.jobs.submit(OWNER, submission, idempotency_key="k").job
    core.jobs.cancel(OWNER, job.id)
    core.files.delete(OWNER, file.id)
    assert core.jobs.submit(OWNER, submission, idempotency_key="k").job.id == job.id


def test_others_jobs_do_not_exist(core: CoreInstallation) -> None:
    job = core.submit(owner="ann")
    for act in (core.jobs.get, core.jobs.cancel, core.jobs.retry, core.jobs.delete, core.jobs.list_artifacts):
        with pytest.raises(JobNotFound):
            act("bob", job.id)
    assert core.jobs.list("bob", after=None, limit=10).data == []


@pytest.mark.parametrize("job_id", ["", "job-1", "x\0y", "job-" + "0" * 26, "'; drop table jobs"])
def test_ids_that_cannot_be_are_not_found(core: CoreInstallation, job_id: str) -> None:
    with pytest.raises(JobNotFound):
        core.jobs.get(OWNER, job_id)


def test_list_goes_from_new_to_old_in_pages(core: CoreInstallation) -> None:
    ids = [core.submit().id for _ in range(5)]
    first = core.jobs.list(OWNER, after=None, limit=2)
    second = core.jobs.list(OWNER, after=first.data[-1].id, limit=2)
    third = core.jobs.list(OWNER, after=second.data[-1].id, limit=2)
    pages = [first, second, third]
    assert [job.id for page in pages for job in page.data] == ids[::-1]
    assert [page.has_more for page in pages] == [True, True, False]


def test_list_can_be_of_one_state(core: CoreInstallation) -> None:
    kept, cancelled = core.submit(), core.submit()
    core.jobs.cancel(OWNER, cancelled.id)
    found = core.jobs.list(OWNER, after=None, limit=10, status=JobStatus.CANCELLED)
    assert [job.id for job in found.data] == [cancelled.id]
    assert core.jobs.count_by_status() == {"queued": 1, "cancelled": 1}
    assert core.jobs.get(OWNER, kept.id).status == JobStatus.QUEUED


def test_job_is_deleted_only_when_it_has_ended_and_with_all_that_is_its(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new(config={"huggingface_hub_token": "hf_secret"})
    key = f"jobs/{claim.job_id}/artifacts/adapter/a.bin"
    core.storage.write(key, [b"x"])
    core.jobs.record_artifacts(claim.job_id, 1, [NewArtifact("adapter", "adapter/a.bin", 1, "0" * 64, key)])
    with pytest.raises(InvalidTransition):
        core.jobs.delete(OWNER, claim.job_id)
    core.jobs.finish(claim.job_id, 1, Outcome("succeeded"))
    assert core.jobs.delete(OWNER, claim.job_id).status == JobStatus.SUCCEEDED
    assert core.storage.list(f"jobs/{claim.job_id}") == []
    with pytest.raises(JobNotFound):
        core.jobs.get(OWNER, claim.job_id)


def test_job_that_an_unfinished_one_goes_on_from_is_not_deleted(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new()
    key = f"jobs/{claim.job_id}/artifacts/data/train.jsonl"
    core.jobs.record_artifacts(claim.job_id, 1, [NewArtifact("data", "data/train.jsonl", 1, "0" * 64, key)])
    core.jobs.finish(claim.job_id, 1, Outcome("succeeded"))
    following = core.submit(steps=["train"], input_job=claim.job_id)
    with pytest.raises(InvalidTransition, match=following.id):
        core.jobs.delete(OWNER, claim.job_id)
    core.jobs.cancel(OWNER, following.id)
    core.jobs.delete(OWNER, claim.job_id)
    with pytest.raises(InvalidSubmission, match="no such job"):
        core.jobs.retry(OWNER, following.id)


def test_file_is_not_deleted_while_an_unfinished_job_needs_it(core: CoreInstallation) -> None:
    file = core.upload()
    job = core.submit(training_file=file.id)
    with pytest.raises(FileInUse):
        core.files.delete(OWNER, file.id)
    core.jobs.cancel(OWNER, job.id)
    core.files.delete(OWNER, file.id)
    with pytest.raises(FileNotFound):
        core.files.get(OWNER, file.id)
    with pytest.raises(InvalidSubmission, match="no such file"):
        core.jobs.retry(OWNER, job.id)


def test_files_are_their_owners_and_listed_in_pages(core: CoreInstallation) -> None:
    files = [core.upload(owner="ann") for _ in range(3)]
    page = core.files.list("ann", after=None, limit=2)
    assert ([file.id for file in page.data], page.has_more) == ([files[2].id, files[1].id], True)
    assert core.files.list("ann", after=page.data[-1].id, limit=2).data == [files[0]]
    with pytest.raises(FileNotFound):
        core.files.get("bob", files[0].id)
    with pytest.raises(InvalidSubmission, match="no such file"):
        core.submit(owner="bob", training_file=files[0].id)
