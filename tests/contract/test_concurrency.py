"""Many threads at once: nothing is lost, doubled or left out."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from app.jobs.commands import JobSubmission, NewEvent, Outcome
from app.jobs.errors import FileInUse, InvalidSubmission, InvalidTransition
from app.jobs.views import Submitted
from tests.support.installation import CONFIG, OWNER, CoreInstallation

NUM_THREADS = 8
Answer = TypeVar("Answer")


def run_at_once(work: Callable[[int], Answer], count: int) -> list[Answer]:
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return list(pool.map(work, range(count)))


def test_one_key_from_many_threads_makes_one_job(core: CoreInstallation) -> None:
    def submit(_index: int) -> Submitted:
        return core.jobs.submit(OWNER, JobSubmission(config=CONFIG), idempotency_key="k")

    submitted = run_at_once(submit, 24)
    assert len({one.job.id for one in submitted}) == 1
    assert Counter(one.replayed for one in submitted) == {True: 23, False: 1}


def test_one_job_is_claimed_once(core: CoreInstallation) -> None:
    core.add_worker(slots=NUM_THREADS)
    job = core.submit()
    claims = run_at_once(lambda _index: core.jobs.claim(job.id, "wrk-1"), 16)
    assert [claim.attempt for claim in claims if claim is not None] == [1]
    assert core.jobs.get(OWNER, job.id).attempt == 1


def test_no_gpu_is_given_twice(core: CoreInstallation) -> None:
    core.add_worker(num_gpus=4)
    jobs = [core.submit() for _ in range(8)]
    run_at_once(lambda _index: core.jobs.dispatch_ready(), 4)
    claims = run_at_once(lambda index: core.jobs.claim(jobs[index].id, "wrk-1"), 8)
    assert sorted(claim.gpus for claim in claims if claim is not None) == [(0,), (1,), (2,), (3,)]


def test_event_numbers_have_no_holes(core: CoreInstallation) -> None:
    core.add_worker()
    claim = core.claim_new()

    def record(index: int) -> None:
        core.jobs.record_events(claim.job_id, 1, [NewEvent("decision", message=f"{index}")] * (index % 3 + 1))

    run_at_once(record, 30)
    events = core.jobs.list_events(OWNER, claim.job_id, after_seq=0, limit=1000).data
    assert [event.seq for event in events] == list(range(1, 2 + 60 + 1))
    assert len([event for event in events if event.type == "decision"]) == 60


def test_cancel_and_success_at_once_end_in_one_of_the_two(core: CoreInstallation) -> None:
    core.add_worker(slots=10)
    claims = [core.claim_new() for _ in range(8)]

    def act(index: int) -> None:
        claim = claims[index // 2]
        if index % 2:
            core.jobs.finish(claim.job_id, 1, Outcome("succeeded"))
        else:
            # Either order is right; a cancel that comes second is refused.
            with suppress(InvalidTransition):
                core.jobs.cancel(OWNER, claim.job_id)

    run_at_once(act, 16)
    for claim in claims:
        events = core.jobs.list_events(OWNER, claim.job_id, after_seq=0, limit=10).data
        assert [event.type for event in events] == ["job.queued", "job.running", "job.succeeded"]


def test_file_is_deleted_or_used_but_never_both(core: CoreInstallation) -> None:
    files = [core.upload() for _ in range(6)]

    def act(index: int) -> str:
        file_id = files[index // 2].id
        try:
            if index % 2:
                core.files.delete(OWNER, file_id)
            else:
                core.submit(training_file=file_id)
        except (FileInUse, InvalidSubmission):
            return "refused"
        return "done"

    answers = run_at_once(act, 12)
    for index in range(6):
        assert sorted(answers[2 * index : 2 * index + 2]) == ["done", "refused"]


def test_reconcilers_side_by_side_take_back_each_job_once(core: CoreInstallation) -> None:
    core.add_worker(slots=10)
    claims = [core.claim_new() for _ in range(6)]
    for claim in claims:
        core.expire_lease(claim.job_id)
    taken = run_at_once(lambda _index: core.jobs.reclaim_expired(), 8)
    assert Counter(job_id for some in taken for job_id in some) == {claim.job_id: 1 for claim in claims}
